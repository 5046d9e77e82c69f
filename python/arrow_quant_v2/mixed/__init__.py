"""Mixed precision: bits for each layer by how much the model minds."""
