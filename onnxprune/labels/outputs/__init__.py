"""What outputs are made of, and which of it tells how near two networks are."""
