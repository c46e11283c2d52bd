"""Files other than models: temporary ones, regular ones, and TOML."""
