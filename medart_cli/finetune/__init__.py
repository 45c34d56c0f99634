"""`medart finetune`: captioned images -> trained model. The training loop is in train.py.

What a run will need is estimated in estimate/.

Imports libraries and what stands at the top of the package, never another command.
"""
