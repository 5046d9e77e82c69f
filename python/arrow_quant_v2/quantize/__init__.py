"""One quantization from start to end, of a model or of arrays, and its result."""
