"""Which channels matter: a score for each."""
