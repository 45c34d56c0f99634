"""`medart caption`: images -> manifest with captions. May import libraries, never another command."""
