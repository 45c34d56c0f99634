"""`medart doctor`: what this machine has and lacks.

Imports libraries and what stands at the top of the package, never another command.
"""
