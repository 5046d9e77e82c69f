"""``python -m arrow_quant_v2.cli``: the command without its script."""

from arrow_quant_v2.cli.main import main

main()
