"""Running models on pictures: people are found, recovered and written to files."""
