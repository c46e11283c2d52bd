"""One analysis and many plans: the model as given, the original observed, what is chosen, and the model to write."""
