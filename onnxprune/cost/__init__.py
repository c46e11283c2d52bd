"""What a network costs: MACs, parameters, bytes, and cycles of a chip."""
