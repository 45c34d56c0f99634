"""`medart sample`: trained model and prompts -> images.

Imports libraries and what stands at the top of the package, never another command.
"""
