"""Numbers from features, pixels and labels.

A library: imports neither commands nor other libraries, and takes plain arguments.
"""
