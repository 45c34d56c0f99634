"""`medart finetune`: captioned images -> trained model. The training loop is in train.py.

Imports libraries and what stands at the top of the package, never another command.
"""
