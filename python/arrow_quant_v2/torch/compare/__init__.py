"""Two networks on the same recorded inputs: how far their outputs are apart."""
