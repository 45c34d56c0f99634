"""What lies on disk: manifests, images, caches, runs, reports. Imports errors and log only."""
