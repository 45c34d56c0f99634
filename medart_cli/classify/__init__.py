"""`medart classify`: real and synthetic images -> classifiers, compared.

Imports libraries and what stands at the top of the package, never another command.
"""
