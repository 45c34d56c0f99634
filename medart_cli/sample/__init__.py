"""Draw images: `medart sample`."""
