"""The formats that a model is written in: one module for each, which knows values and grids but not how they came."""
