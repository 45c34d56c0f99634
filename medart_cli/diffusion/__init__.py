"""The mathematics of denoising: torch only, no files, no models. Imports errors and log only."""
