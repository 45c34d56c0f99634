"""What others trained, behind small functions. Imports errors and log only."""
