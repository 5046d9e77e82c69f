"""The ``arrow-quant`` command."""
