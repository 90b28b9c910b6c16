"""Models of motion over time."""
