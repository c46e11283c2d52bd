"""Running models: sessions, the shapes to run at, what cannot be run, and how far results are apart."""
