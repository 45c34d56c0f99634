"""What others trained, behind small functions.

A library: imports neither commands nor other libraries, and takes plain arguments.
"""
