"""Generate images: `medart sample`."""
