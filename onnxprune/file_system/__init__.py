"""Files that are no models: those that do not stay, that have an end, and TOML."""
