"""Samples, and what the network does on them: statistics of its matrix products, gradients, least squares."""
