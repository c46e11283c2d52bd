"""What is written out for the analysis, and put back after pruning: function calls, branches, sequences."""
