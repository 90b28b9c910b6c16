"""How encoders, heads and bodies are joined."""
