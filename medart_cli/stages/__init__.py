"""The commands, one file each; each reads and writes files and has run(config) -> summary.

A stage may import data, models, diffusion and metrics, and never another stage.
"""
