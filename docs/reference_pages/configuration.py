"""The page of all settings, and the table of environment variables."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from arrow_quant_v2.cli.options import FLAGS
from arrow_quant_v2.config import environment
from arrow_quant_v2.config.settings import PROFILES, V1_NAMES, DiffusionQuantConfig, Must
from reference_pages.markdown import NOTE, table

HEAD = f"""\
# Configuration

{NOTE}
`DiffusionQuantConfig` has every setting of a run. A value comes from one of these, in order of
precedence:

1. an argument or an assignment,
2. an [environment variable](environment.md),
3. a YAML file,
4. the deployment profile,
5. the default.

A wrong value is a `ConfigurationError` at the moment when it is set, wherever it comes from. So is
an unknown name; the error says the nearest known one.

```python
from arrow_quant_v2 import DiffusionQuantConfig

config = DiffusionQuantConfig(bit_width=2, group_size=64)
config.min_accuracy = 0.9
print(config.explain()["min_accuracy"])  # (0.9, 'assignment')

edge = DiffusionQuantConfig.from_profile("edge")
edge.to_yaml("edge.yaml")
again = DiffusionQuantConfig.from_yaml("edge.yaml", bit_width=4)  # arguments come first
```

At the command line, settings are options (`arrow-quant quantize --help`), `--set NAME=VALUE` for
those without an option, `--config FILE.yaml`, and `--profile NAME`. `arrow-quant config --explain`
with the same options shows every value and where it comes from.

## Settings
"""

PROFILES_HEAD = """\
## Profiles

`DiffusionQuantConfig.from_profile(name)`, `deployment_profile=name`, or `--profile name`. A profile
supplies these values if nothing else sets them. All other settings keep their defaults. [Quantize a
model](../how-to/quantize.md#3-quantize) says what the profiles are for.
"""

YAML_HEAD = """\
## Files

A file is a flat mapping from names to values, in YAML 1.2: `1e-2` is a number, `on` is text.
Anchors, tags, duplicate keys, and a second document are errors that name the line.

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

V1 names are refused; the error says the V2 name. `arrow-quant migrate` rewrites files and programs
([move from V1](../how-to/migrate.md)).
"""


def configuration_page() -> str:
    """All of docs/reference/configuration.md."""
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
            table(["setting", *(f"`{name}`" for name in names)], profiles),
            YAML_HEAD,
            table(["V1", "V2"], renames),
        ]
    )


def environment_table() -> str:
    """The variables, for docs/reference/environment.md."""
    rows = [
        [f"`{variable}`", f"`{setting}`", _requirement(setting)]
        for variable, setting in environment.VARIABLES.items()
    ]
    return table(["variable", "setting", "value"], rows)


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
