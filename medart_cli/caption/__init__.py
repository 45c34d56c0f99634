"""`medart caption`: images -> manifest with captions.

Imports libraries and what stands at the top of the package, never another command.
"""
