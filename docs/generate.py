"""Writes the pages that say what is in the code: ``make docs``, or ``python docs/generate.py``.

docs/configuration.md is made whole; in docs/environment.md the table between the two marks.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arrow_quant_v2.cli.options import FLAGS
from arrow_quant_v2.config import environment
from arrow_quant_v2.config.settings import PROFILES, V1_NAMES, DiffusionQuantConfig, Must

DOCS = Path(__file__).resolve().parent
BEGIN = "<!-- made by docs/generate.py from here -->"
END = "<!-- to here -->"

HEAD = """\
# Configuration

*Made from the code by `make docs`; do not edit.*

`DiffusionQuantConfig` has every setting of a run. A value comes from, in order of precedence: an
argument or an assignment, the [environment](environment.md), a YAML file, the deployment profile,
the default. A wrong value is a `ConfigurationError` wherever it comes from, at the moment it is
set; so is an unknown name, with the nearest match.

```python
from arrow_quant_v2 import DiffusionQuantConfig

config = DiffusionQuantConfig(bit_width=2, group_size=64)
config.min_accuracy = 0.9
print(config.explain()["min_accuracy"])  # (0.9, 'assignment')

edge = DiffusionQuantConfig.from_profile("edge")
edge.to_yaml("edge.yaml")
again = DiffusionQuantConfig.from_yaml("edge.yaml", bit_width=4)  # arguments outrank the file
```

At the command line, settings are options (`arrow-quant quantize --help`), `--set NAME=VALUE` for
those without one, `--config FILE.yaml`, and `--profile NAME`. `arrow-quant config --explain` with
the same options shows every value and where it comes from.

## Settings
"""

PROFILES_HEAD = """\
## Profiles

`DiffusionQuantConfig.from_profile(name)`, `deployment_profile=name`, or `--profile name`. A profile
supplies these values for what nothing else sets; all other settings keep their defaults.
"""

LAYERS = """\
## Which layers are quantized

By default the weights of linear layers and convolutions in what a network repeats: attention,
feed-forward, convolutions, and what each block makes of the time (`time_emb_proj`, `norm1.linear`,
`adaLN_modulation`). Kept as they are: biases and norms; embeddings, of tokens, classes, positions
and of the time itself; the first convolution or projection and the output head; tensors with fewer
than 1024 elements or 32 inputs; everything that is not floating-point.

```console
$ arrow-quant plan my-model/ --all
...
```

says for every tensor what it gets and why. `layer_rules` changes it: a pattern (`*`, `?`, `[abc]`)
over names, with or without `.weight`, and bits or `keep`. The last pattern that matches wins; one
that matches nothing is an error.

```python
config = DiffusionQuantConfig(bit_width=4, layer_rules={"*.to_v": 8, "mid_block.*": "keep"})
```

The projections of the time are many bytes and little error: in the DiT of the
[zoo](../zoo/README.md) `layer_rules={"*.norm1.linear": "keep"}` lowers the square error of the
outputs by 2 % at 4 bits and makes the file half as large again. In a U-Net the layers are called
`*.time_emb_proj`, in the original code of DiT `*.adaLN_modulation*`.
"""

YAML_HEAD = """\
## Files

A flat mapping from names to values, YAML 1.2: `1e-2` is a number, `on` is text. Anchors, tags,
duplicate keys, and a second document are errors that name the line.

```yaml
bit_width: 4
group_size: 64
min_accuracy: 0.9
layer_rules:
  "*.to_q": 8
  "mid_block.*": keep
validation_thresholds: {int4: 0.95}
```

## Names of V1

V1 names are refused with their V2 name; `arrow-quant migrate` rewrites files and programs
([migration.md](migration.md)).
"""


def configuration_page() -> str:
    """All of docs/configuration.md."""
    fields = [_field(name) for name in DiffusionQuantConfig.model_fields]
    names = list(PROFILES)
    settings = dict.fromkeys(key for values in PROFILES.values() for key in values)
    profiles = [
        [f"`{setting}`", *(_code(_profile_value(name, setting)) for name in names)]
        for setting in settings
    ]
    renames = [[f"`{old}`", f"`{new}`"] for old, new in V1_NAMES.items()]
    return "\n".join(
        [
            HEAD,
            "\n".join(fields),
            PROFILES_HEAD,
            _table(["setting", *(f"`{name}`" for name in names)], profiles),
            LAYERS,
            YAML_HEAD,
            _table(["V1", "V2"], renames),
        ]
    )


def environment_table() -> str:
    """The variables, for docs/environment.md."""
    rows = [
        [f"`{variable}`", f"`{setting}`", _requirement(setting)]
        for variable, setting in environment.VARIABLES.items()
    ]
    return _table(["variable", "setting", "value"], rows)


def environment_page(page: str) -> str:
    """`page` with its table made anew."""
    table = f"{BEGIN}\n{environment_table()}{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: table, page, flags=re.DOTALL)


def _field(name: str) -> str:
    field = DiffusionQuantConfig.model_fields[name]
    variables = [v for v, setting in environment.VARIABLES.items() if setting == name]
    facts = [f"Default {_code(field.get_default(call_default_factory=True))}."]
    facts.append(f"Must be {_requirement(name)}.")
    if name in FLAGS:
        facts.append(f"Option: `{FLAGS[name].name}`.")
    facts += [f"Environment: `{variable}`." for variable in variables]
    return f"**`{name}`**: {field.description}\n{' '.join(facts)}\n"


def _requirement(name: str) -> str:
    field = DiffusionQuantConfig.model_fields[name]
    text = next(item.text for item in field.metadata if isinstance(item, Must))
    optional = type(None) in typing.get_args(field.annotation)
    return f"{text}, or None" if optional and "None" not in text else text


def _profile_value(profile: str, setting: str) -> Any:
    default = DiffusionQuantConfig.model_fields[setting].get_default()
    return PROFILES[profile].get(setting, default)


def _code(value: Any) -> str:
    if isinstance(value, Mapping) and not value:
        return "none"
    return f"`{value!r}`"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Write the pages."""
    (DOCS / "configuration.md").write_text(configuration_page())
    path = DOCS / "environment.md"
    path.write_text(environment_page(path.read_text()))


if __name__ == "__main__":
    main()
