"""What the demo uses: drawn phantoms, and small models that learned from them.

How the models were trained is in make/, which is not in the wheel.
"""
