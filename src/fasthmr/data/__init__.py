"""Synthetic pictures of people: motion, clothes, places, rendering, and the store that training reads."""
