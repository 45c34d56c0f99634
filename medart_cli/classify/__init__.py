"""`medart classify`: real and synthetic images -> classifiers, compared.

May import libraries, never another command.
"""
