"""The page of the public Python names, from their docstrings; and what docstrings lack."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_pages.docstring import Docstring, docstring
from reference_pages.markdown import NOTE, one_line, prose

PACKAGE = "arrow_quant_v2"
SOURCE = Path(__file__).resolve().parents[2] / "python" / PACKAGE
#: Public modules: what they hand on in ``__all__`` is public.
MODULES = (
    PACKAGE,
    f"{PACKAGE}.torch",
    f"{PACKAGE}.integrations.diffusers",
    f"{PACKAGE}.integrations.transformers",
    f"{PACKAGE}.v1",
)

HEAD = f"""\
# Python API

{NOTE}
`arrow_quant_v2` needs no torch; `arrow_quant_v2.torch` and the integrations do (`pip install
'.[models]'`). All errors are subclasses of `ArrowQuantError` ([errors](errors.md)). Settings are in
[configuration](configuration.md).
"""

#: Classes whose objects users are given: how they are constructed is no part of the interface.
GIVEN = {
    "ArrowQuantizer",
    "PackedWeight",
    "QuantEmbedding",
    "QuantLinear",
    "QuantizationResult",
    "QuantizedComponent",
    "QuantizedModel",
    "QuantizedTensor",
    "V1Result",
    "ValidationResult",
    *(f"QuantConv{transposed}{n}d" for transposed in ("", "Transpose") for n in (1, 2, 3)),
}

_SELF_EXPLAINED = {"self", "cls"}
#: A docstring that says its parameters are those of another callable of the same module or class.
_SAME = re.compile(r"[Pp]arameters are those of :(?:func|meth|class):`~?([^`]+)`")

#: A parameter that a short docstring speaks of.
_NAMED = re.compile(r"(?<!`)`(\w+)`(?!`)")


@dataclass(frozen=True)
class Member:
    """A method, a property or a function, with its full name."""

    name: str
    thing: Any
    kind: str


def python_page() -> str:
    """All of docs/reference/python-api.md."""
    parts = [HEAD]
    for module in MODULES:
        names = ", ".join(f"[`{name}`](#{_anchor(name)})" for name, _ in public(module))
        parts.append(f"- `{module}`: {names}")
    described: set[int] = set()
    for module in MODULES:
        summary = prose(docstring(importlib.import_module(module)).text)
        parts.append(f"\n## {module}\n\n{summary}\n")
        for name, thing in public(module):
            if id(thing) in described:
                continue
            described.add(id(thing))
            parts.append(_entry(name, thing))
    return "\n".join(parts)


def public(module: str) -> list[tuple[str, Any]]:
    """Public names of a module and what they are, in order."""
    imported = importlib.import_module(module)
    return [(name, getattr(imported, name)) for name in imported.__all__ if name != "__version__"]


def undocumented() -> list[str]:
    """What public names of Python lack in their docstrings, one a line."""
    found = []
    for module in MODULES:
        if not docstring(importlib.import_module(module)).text:
            found.append(f"{module}: no docstring")
        for name, thing in public(module):
            found += [f"{module}.{text}" for text in _lacks(name, thing)]
    return sorted(set(found))


def _lacks(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing):
        doc = docstring(thing)
        if not doc.text:
            yield f"{name}: no docstring"
        described = _inherited(doc).names("Parameters", "Attributes") | _named(doc)
        for parameter in _constructor(thing):
            if parameter not in described:
                yield f"{name}: parameter {parameter!r} is not described"
        for member in members(thing):
            yield from _lacks_of_callable(f"{name}.{member.name}", member.thing, thing)
    elif callable(thing):
        yield from _lacks_of_callable(name, thing, None)
    elif not _remark(name):
        yield f"{name}: no comment above it"


def _lacks_of_callable(name: str, thing: Any, owner: type | None) -> Iterator[str]:
    if isinstance(thing, property):
        if not docstring(thing.fget).text:
            yield f"{name}: no docstring"
        return
    function = inspect.unwrap(getattr(thing, "__func__", thing))
    doc = docstring(function)
    if not doc.text:
        yield f"{name}: no docstring"
        return
    described = doc.names("Parameters") | _named(doc)
    if same := _SAME.search(doc.text):
        described |= docstring(_other(same[1], owner)).names("Parameters")
    wanted = [p for p in inspect.signature(function).parameters if p not in _SELF_EXPLAINED]
    for parameter in wanted:
        if parameter not in described:
            yield f"{name}: parameter {parameter!r} is not described"


def _named(doc: Docstring) -> set[str]:
    """Parameters that the text itself speaks of."""
    return set(_NAMED.findall(doc.text))


def _inherited(doc: Docstring) -> Docstring:
    """The docstring of a class, with the parameters of another one that it names."""
    same = _SAME.search(doc.text)
    if same is None or "Parameters" in doc.items:
        return doc
    parameters = docstring(_other(same[1], None)).items["Parameters"]
    text = _SAME.sub("", doc.text).strip(" .\n") + "."
    return Docstring(text, {"Parameters": parameters, **doc.items}, doc.others)


def _other(target: str, owner: type | None) -> Any:
    """What a docstring points at: a full name, or a name of the same class."""
    if "." not in target:
        return getattr(owner, target)
    thing: Any = importlib.import_module(PACKAGE)
    for part in target.removeprefix(f"{PACKAGE}.").split("."):
        thing = getattr(thing, part)
    return thing


def members(thing: type) -> list[Member]:
    """Public methods and properties that classes of this package define, the nearest first.

    What overrides a method of a class of another library is documented there.
    """
    found: dict[str, Member] = {}
    others = [base for base in inspect.getmro(thing) if not base.__module__.startswith(PACKAGE)]
    foreign = {name for base in others for name in vars(base)}
    for base in inspect.getmro(thing):
        if not base.__module__.startswith(PACKAGE):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in found or name in foreign:
                continue
            if isinstance(value, property):
                found[name] = Member(name, value, "property")
            elif isinstance(value, (classmethod, staticmethod)) or inspect.isfunction(value):
                found[name] = Member(name, value, "method")
    return list(found.values())


def _constructor(thing: type) -> list[str]:
    """Parameters of the constructor where it is one of ours; settings have a page of their own."""
    if issubclass(thing, BaseException) or hasattr(thing, "model_fields"):
        return []
    if thing.__name__ in GIVEN:
        return []
    if dataclasses.is_dataclass(thing):
        return [item.name for item in dataclasses.fields(thing) if not item.name.startswith("_")]
    constructor = thing.__init__  # type: ignore[misc]
    if not getattr(constructor, "__module__", "").startswith(PACKAGE):
        return []
    return [p for p in inspect.signature(constructor).parameters if p not in _SELF_EXPLAINED]


def _entry(name: str, thing: Any) -> str:
    if not (inspect.isclass(thing) or callable(thing)):
        return f"### `{name}`\n\nA constant of the type `{type(thing).__name__}`. {_remark(name)}\n"
    parts = [f"### `{name}`\n"]
    if inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
        head = f"class {name}({bases})" if bases else f"class {name}"
        parts.append(f"```python\n{head}\n```\n")
        parts.append(_text(_inherited(docstring(thing))))
        for member in members(thing):
            parts.append(_member(name, member))
    else:
        parts.append(f"```python\n{name}{_signature(thing)}\n```\n")
        parts.append(_text(docstring(thing)))
    return "\n".join(parts)


def _remark(name: str) -> str:
    """The comment that stands above a constant in the source."""
    above = re.compile(rf"((?:^#: .*\n)+){name}\b", re.MULTILINE)
    found = (above.search(path.read_text()) for path in sorted(SOURCE.rglob("*.py")))
    lines = next((match[1].splitlines() for match in found if match), [])
    return prose(" ".join(line.removeprefix("#: ") for line in lines))


def _member(owner: str, member: Member) -> str:
    if member.kind == "property":
        return f"**`{owner}.{member.name}`** {prose(docstring(member.thing.fget).text)}\n"
    function = inspect.unwrap(getattr(member.thing, "__func__", member.thing))
    head = f"#### `{owner}.{member.name}`\n\n```python\n{member.name}{_signature(function)}\n```\n"
    return f"{head}\n{_text(docstring(function))}"


def _signature(function: Callable[..., Any]) -> str:
    """The signature, one parameter a line where it is long."""
    signature = inspect.signature(inspect.unwrap(function))
    parts = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.name in _SELF_EXPLAINED:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty else f" -> {_annotation(returns)}"
    line = f"({', '.join(parts)}){arrow}"
    if len(line) <= 80:
        return line
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f" = {parameter.default!r}"
    return text


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "...")


def _text(doc: Docstring) -> str:
    parts = [prose(doc.text) + "\n"]
    for heading, items in doc.items.items():
        lines = [f"- `{name}`: {prose(text)}" if text else f"- `{name}`" for name, text in items]
        parts.append(f"{heading}:\n\n" + "\n".join(lines) + "\n")
    for heading, body in doc.others.items():
        text = f"```python\n{_program(body)}\n```" if heading == "Examples" else prose(body)
        parts.append(f"{heading}:\n\n{text}\n")
    return "\n".join(parts)


def _program(body: str) -> str:
    """An example as one would type it, without marks of doctest."""
    if not body.startswith(">>>"):
        return body
    lines = [re.sub(r"\s*# doctest:.*", "", line) for line in body.splitlines()]
    typed = (">>> ", "... ")
    return "\n".join(
        line[4:] if line.startswith(typed) else f"# {one_line(line)}" for line in lines
    )


def _anchor(name: str) -> str:
    return name.lower()
