"""How far to go: plans made from one analysis, a metric that judges them, and the smallest model that it accepts."""
