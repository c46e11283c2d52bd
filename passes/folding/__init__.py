"""What is folded before weights are solved anew: computed parameters and BatchNormalization."""
