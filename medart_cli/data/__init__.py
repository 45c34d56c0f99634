"""What lies on disk: manifests, images, caches, output folders, checkpoints, pages.

A library: imports neither commands nor other libraries, and takes plain arguments.
"""
