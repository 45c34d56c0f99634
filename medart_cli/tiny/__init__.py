"""Demonstration models, the drawn phantoms that they learnt from, and how they were made."""
