"""`medart reader`: real and synthetic images -> a blinded reader study, and what came of it.

Imports libraries and what stands at the top of the package, never another command.
"""
