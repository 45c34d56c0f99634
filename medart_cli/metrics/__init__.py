"""Numbers from features, pixels and labels. Imports errors and log only."""
