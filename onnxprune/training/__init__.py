"""Pruning and training by turns; the training is the user's."""
