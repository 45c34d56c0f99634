"""`medart finetune`: captioned images -> trained model. The training loop is in train.py.

May import libraries, never another command.
"""
