"""A metric that judges plans; the smallest model that it accepts, and what each group of channels costs it."""
