"""What an earlier run has seen of a model, out of the folder of ``--cache``."""
