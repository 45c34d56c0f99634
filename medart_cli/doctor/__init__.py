"""Look at this machine and its models: `medart doctor`."""
