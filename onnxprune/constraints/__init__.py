"""Constraints on the weights of a layer: zeros and grids. They know moments, but no operators, files or data."""
