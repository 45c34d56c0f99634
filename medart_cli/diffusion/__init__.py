"""The mathematics of denoising: torch alone, no files, no models.

A library: imports neither commands nor other libraries, and takes plain arguments.
"""
