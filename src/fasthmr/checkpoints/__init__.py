"""Weight files: reading them safely, and tables from published key names to ours."""
