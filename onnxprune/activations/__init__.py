"""Activations of few bits: which tensors, in which ranges, and the network with them rounded."""
