"""`medart demo`: the other commands on phantoms, called through cli.py, on one page."""
