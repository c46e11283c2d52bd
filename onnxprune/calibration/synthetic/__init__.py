"""Inputs drawn where no samples are given: a module for each family of them, and one for the range of their values."""
