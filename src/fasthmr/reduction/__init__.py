"""Making trained models cheaper: fewer layers, fewer tokens."""
