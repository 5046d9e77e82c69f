"""How good is a model of the zoo, or a quantized version of it? ``python -m zoo.evaluate``."""
