"""Files other than models: temporary ones, arrays of calibration, regular ones, and TOML."""
