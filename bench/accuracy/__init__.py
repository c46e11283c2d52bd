"""Accuracy without fine-tuning, on small networks trained here: see ``python -m bench.accuracy --help``."""
