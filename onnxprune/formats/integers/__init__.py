"""A network in integers: its steps, how they follow from a model on grids, as an ONNX graph, and on numpy."""
