"""The two runs on channel labels: what goes together, and what removing it means for each node."""
