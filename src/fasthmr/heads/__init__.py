"""Heads: feature maps or tokens to typed outputs."""
