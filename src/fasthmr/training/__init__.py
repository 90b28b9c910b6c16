"""Training recipes; the only row that imports Lightning."""
