"""`medart evaluate`: real and synthetic images -> report.

Imports libraries and what stands at the top of the package, never another command.
"""
