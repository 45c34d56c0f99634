"""The command `docs`: the pages of the documentation in the terminal, without network."""
