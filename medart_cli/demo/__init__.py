"""All commands on drawn images, on one page: `medart demo`."""
