"""Running models: sessions, input shapes, operators that cannot be run, and differences between results."""
