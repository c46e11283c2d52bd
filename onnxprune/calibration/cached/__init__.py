"""What runs leave for each other in the folder of ``--cache``: the folder, and what was seen of a model."""
