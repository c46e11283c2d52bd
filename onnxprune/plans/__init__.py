"""What a run decided, as a value and as a file that outlives it; made of a model, and applied to one again."""
