"""What a model whose numbers lie on grids is written as: one module a format, each of which knows values only."""
