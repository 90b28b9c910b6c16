"""Pure tensor functions: rotations, cameras, boxes, crops and rigid alignment."""
