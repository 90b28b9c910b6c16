"""What models cost: counted parameters and products, measured times."""
