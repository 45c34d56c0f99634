"""`medart demo`: caption and study on phantoms, called through shell, as a user would."""
