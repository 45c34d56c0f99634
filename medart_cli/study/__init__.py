"""`medart study`: the ablation on one's own images, by the ordinary commands.

May import cli, through shell, as a user's shell would; else the libraries, options, errors and log.
"""
