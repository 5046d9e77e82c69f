"""``arrow-quant info``: what this installation is and runs on."""

from __future__ import annotations

import json as json_module
import platform

import numpy
import pyarrow

from arrow_quant_v2._native import core
from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import print_facts, print_json
from arrow_quant_v2.cli.exit_codes import command


@command
def info(json: options.Json = False) -> None:
    """Show version, instruction set and libraries."""
    build = core.build_info()
    facts = {
        "version": build.version,
        "instruction_set": build.isa,
        "supported_instruction_sets": build.supported_isas,
        "cores": build.cores,
        "compiler": build.compiler,
        "arrow": build.arrow_version,
        "openblas": build.openblas,
        "pyarrow": pyarrow.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if json:
        print_json(json_module.dumps(facts, indent=2))
        return
    print_facts(
        [
            (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value))
            for name, value in facts.items()
        ]
    )
