"""Building blocks shared by encoders, heads, reductions and temporal models."""
