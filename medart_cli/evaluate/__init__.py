"""Compare synthetic with real images: `medart evaluate`."""
