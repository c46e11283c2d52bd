"""The new model against the original."""
