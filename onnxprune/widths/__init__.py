"""How many channels of each group stay, and which."""
