"""All that is said of a run."""
