"""The rewriting of one program, on a syntax tree that keeps every space and comment."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider

from arrow_quant_v2.config.environment import V1_VARIABLES
from arrow_quant_v2.config.settings import V1_NAMES, DiffusionQuantConfig
from arrow_quant_v2.quantize.result import V1_KEYS

_V1_MODULE, _V2_MODULE = "arrow_quant", "arrow_quant_v2"
_V1_CLASS, _V2_CLASS = "ArrowQuant", "ArrowQuantV2"
_CONFIG_CLASS = "DiffusionQuantConfig"
_EXPORTED = {_V1_CLASS, "QuantizationError"}
_SETTINGS = {*V1_NAMES, *DiffusionQuantConfig.model_fields}
_TIGHT_EQUAL = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def rewrite(module: cst.Module) -> tuple[str, list[str]]:
    """The V2 text of a program, and notes on what is left to a person.

    A program that does not import V1 comes back as it is.
    """
    wrapper = MetadataWrapper(module)
    found = _Finder()
    wrapper.visit(found)
    if not found.uses_v1:
        return module.code, []
    rewriter = _Rewriter(found)
    new = wrapper.visit(rewriter)
    if rewriter.makes_config and not found.module_name:
        new = new.visit(_ConfigImport())
    return new.code, [f"line {line}: {text}" for line, text in sorted(set(rewriter.notes))]


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)


def _text(node: cst.BaseExpression) -> str | None:
    """The value of a string literal; None for anything else, bytes and f-strings included."""
    if not isinstance(node, cst.SimpleString):
        return None
    value = node.evaluated_value
    return value if isinstance(value, str) else None


def _renamed(node: cst.SimpleString, name: str) -> cst.SimpleString:
    return node.with_changes(value=f"{node.prefix}{node.quote}{name}{node.quote}")


def _is_model_call(call: cst.Call) -> bool:
    """Whether a call is ``x.quantize(model, output, ...)`` and not one about an array."""
    if not (isinstance(call.func, cst.Attribute) and call.func.attr.value == "quantize"):
        return False
    names = {arg.keyword.value for arg in call.args if arg.keyword is not None}
    if names & {"model_path", "output_path"}:
        return True
    positional = [arg for arg in call.args if arg.keyword is None]
    return len(positional) >= 2 and not isinstance(positional[1].value, cst.Integer)


def _config_argument(call: cst.Call) -> cst.Arg | None:
    positional = [arg for arg in call.args if arg.keyword is None and not arg.star]
    if len(positional) >= 3:
        return positional[2]
    return next(
        (a for a in call.args if a.keyword is not None and a.keyword.value == "config"), None
    )


def _keys(node: cst.Dict) -> list[str] | None:
    """The keys of a dict display, or None when one is no string literal."""
    keys = [
        _text(element.key) if isinstance(element, cst.DictElement) else None
        for element in node.elements
    ]
    return None if None in keys else [key for key in keys if key is not None]


class _Finder(cst.CSTVisitor):
    """What a program calls the things of V1."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.uses_v1 = False
        self.module_name = ""  # under which `import arrow_quant` is known
        self.class_names: set[str] = set()
        self.results: set[str] = set()
        self.configs: set[str] = set()
        self.dicts: dict[str, list[cst.Dict]] = {}
        self.loop_names: set[str] = set()

    def visit_Import(self, node: cst.Import) -> None:  # noqa: N802
        for alias in node.names:
            if _code(alias.name) == _V1_MODULE:
                self.uses_v1 = True
                self.module_name = alias.evaluated_alias or _V1_MODULE

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:  # noqa: N802
        if node.module is None or _code(node.module) != _V1_MODULE:
            return
        self.uses_v1 = True
        if isinstance(node.names, cst.ImportStar):
            self.class_names.add(_V1_CLASS)
            return
        for alias in node.names:
            if alias.evaluated_name == _V1_CLASS:
                self.class_names.add(alias.evaluated_alias or _V1_CLASS)

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        for target in node.targets:
            self._assigned(target.target, node.value)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        if node.value is not None:
            self._assigned(node.target, node.value)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:  # noqa: N802
        self._assigned(node.target, node.value)

    def visit_For(self, node: cst.For) -> None:  # noqa: N802
        targets = (
            [element.value for element in node.target.elements]
            if isinstance(node.target, cst.Tuple)
            else [node.target]
        )
        self.loop_names |= {_code(target) for target in targets}

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802
        config = _config_argument(node) if _is_model_call(node) else None
        if config is not None and isinstance(config.value, (cst.Name, cst.Attribute)):
            self.configs.add(_code(config.value))

    def _assigned(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        if isinstance(value, cst.Call) and _is_model_call(value):
            self.results.add(_code(target))
        if isinstance(value, cst.Dict):
            self.dicts.setdefault(_code(target), []).append(value)


class _Rewriter(cst.CSTTransformer):
    """Names, calls, settings and keys; imports of the new names come afterwards."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self, found: _Finder) -> None:
        super().__init__()
        self.notes: list[tuple[int, str]] = []
        self.makes_config = False
        self._found = found
        self._config_dicts = {
            id(node) for name in found.configs for node in found.dicts.get(name, [])
        }

    # Imports and names

    def leave_ImportFrom(  # noqa: N802
        self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom
    ) -> cst.ImportFrom:
        module = original_node.module
        if module is None or _code(module).split(".")[0] != _V1_MODULE:
            return updated_node
        if isinstance(module, cst.Attribute):
            self._note(original_node, f"V2 has no {_code(module)}; import from {_V2_MODULE}")
            return updated_node
        names = updated_node.names
        if isinstance(names, cst.ImportStar):
            self._note(original_node, f"'import *' from V2 brings other names; import {_V2_CLASS}")
        else:
            for alias in names:
                if alias.evaluated_name not in {*_EXPORTED, _V2_CLASS}:
                    self._note(original_node, f"V2 may have no {alias.evaluated_name!r}")
            names = [
                alias.with_changes(name=cst.Name(_V2_CLASS))
                if alias.evaluated_name == _V1_CLASS
                else alias
                for alias in names
            ]
        return updated_node.with_changes(module=cst.Name(_V2_MODULE), names=names)

    def leave_ImportAlias(  # noqa: N802
        self, original_node: cst.ImportAlias, updated_node: cst.ImportAlias
    ) -> cst.ImportAlias:
        if _code(original_node.name) == _V1_MODULE:
            return updated_node.with_changes(name=cst.Name(_V2_MODULE))
        return updated_node

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:  # noqa: N802
        parent = self.get_metadata(ParentNodeProvider, original_node)
        if isinstance(parent, cst.Attribute) and parent.attr is original_node:
            of_v1 = _code(parent.value) == self._found.module_name != ""
            return (
                cst.Name(_V2_CLASS) if of_v1 and updated_node.value == _V1_CLASS else updated_node
            )
        if isinstance(parent, cst.Arg) and parent.keyword is original_node:
            return updated_node
        if updated_node.value == _V1_CLASS and _V1_CLASS in self._found.class_names:
            return updated_node.with_changes(value=_V2_CLASS)
        if updated_node.value == _V1_MODULE == self._found.module_name:
            return updated_node.with_changes(value=_V2_MODULE)
        return updated_node

    def leave_SimpleString(  # noqa: N802
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        new = V1_VARIABLES.get(_text(original_node) or "")
        return updated_node if new is None else _renamed(updated_node, new)

    # Calls

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:  # noqa: N802
        if self._is_class(original_node.func):
            return self._constructor(original_node, updated_node)
        if _is_model_call(original_node):
            return self._model_call(original_node, updated_node)
        if self._is_get_of_result(original_node):
            return self._get_of_result(updated_node)
        return updated_node

    def _is_class(self, func: cst.BaseExpression) -> bool:
        text = _code(func)
        module = self._found.module_name
        return text in self._found.class_names or bool(module and text == f"{module}.{_V1_CLASS}")

    def _constructor(self, original: cst.Call, updated: cst.Call) -> cst.Call:
        if updated.args:
            self._note(original, f"{_V2_CLASS} takes only mode=")
            return updated
        return updated.with_changes(args=[_argument("mode", cst.SimpleString('"diffusion"'))])

    def _model_call(self, original: cst.Call, updated: cst.Call) -> cst.Call:
        assert isinstance(updated.func, cst.Attribute)
        func = updated.func.with_changes(attr=cst.Name("quantize_diffusion_model"))
        settings = [
            a for a in updated.args if a.keyword is not None and a.keyword.value in _SETTINGS
        ]
        others = [arg for arg in updated.args if arg not in settings]
        call = updated.with_changes(func=func)
        config = _config_argument(updated)
        if not settings:
            return call if config is None else self._with_config(original, call, config)
        if config is not None:
            self._note(original, "put the settings among the arguments into the configuration")
            return self._with_config(original, call, config)
        made = cst.Call(self._config_class(), [_setting(arg) for arg in settings])
        last = settings[-1]
        argument = _argument("config", _one_line(made)).with_changes(
            comma=last.comma, whitespace_after_arg=last.whitespace_after_arg
        )
        return call.with_changes(args=[*others, argument])

    def _with_config(self, original: cst.Call, call: cst.Call, config: cst.Arg) -> cst.Call:
        """The call with its configuration as V2 wants it, or a note on why that is not certain."""
        value = config.value
        if isinstance(value, cst.Dict):
            new = self._config_from_dict(original, value)
        elif isinstance(value, cst.Call) and _code(value.func) == "dict":
            new = self._config_from_dict_call(original, value)
        else:
            self._note_unknown_config(original, value)
            return call
        return call.with_changes(
            args=[arg.with_changes(value=new) if arg is config else arg for arg in call.args]
        )

    def _note_unknown_config(self, original: cst.Call, value: cst.BaseExpression) -> None:
        text = _code(value)
        known = self._found.dicts.keys() | self._found.loop_names
        if text in known or _code(value).startswith(_CONFIG_CLASS):
            return
        self._note(
            original,
            f"{text!r} must be a {_CONFIG_CLASS}; files are read by "
            f"{_CONFIG_CLASS}.from_yaml(path)",
        )

    # Settings

    def leave_Dict(self, original_node: cst.Dict, updated_node: cst.Dict) -> cst.BaseExpression:  # noqa: N802
        parent = self.get_metadata(ParentNodeProvider, original_node)
        if isinstance(parent, cst.Arg):
            return updated_node  # the call it belongs to knows what it is
        keys = _keys(original_node)
        clearly = keys is not None and "bits" in keys and set(keys) <= _SETTINGS
        if id(original_node) in self._config_dicts or clearly:
            return self._config_from_dict(original_node, updated_node)
        return updated_node

    def _config_from_dict(self, original: cst.CSTNode, node: cst.Dict) -> cst.BaseExpression:
        keys = _keys(node)
        unknown = None if keys is None else [key for key in keys if key not in _SETTINGS]
        if keys is None or unknown:
            what = f"unknown settings {unknown}" if unknown else "keys that are no string literals"
            self._note(original, f"a configuration with {what}: make it a {_CONFIG_CLASS}")
            return node
        arguments = []
        for key, element in zip(keys, node.elements, strict=True):
            argument = _argument(V1_NAMES.get(key, key), element.value)
            arguments.append(argument.with_changes(comma=element.comma))
        if arguments:
            arguments[-1] = _closed(arguments[-1], node.rbrace.whitespace_before)
        return cst.Call(
            self._config_class(),
            arguments,
            whitespace_before_args=node.lbrace.whitespace_after,
            lpar=node.lpar,
            rpar=node.rpar,
        )

    def _config_from_dict_call(self, original: cst.CSTNode, call: cst.Call) -> cst.BaseExpression:
        names = [arg.keyword.value if arg.keyword is not None else "" for arg in call.args]
        if not set(names) <= _SETTINGS:
            self._note(original, f"make {_code(call)} a {_CONFIG_CLASS}")
            return call
        return call.with_changes(
            func=self._config_class(), args=[_setting(arg) for arg in call.args]
        )

    def _config_class(self) -> cst.BaseExpression:
        self.makes_config = True
        module = self._found.module_name
        if not module or self._found.class_names:
            return cst.Name(_CONFIG_CLASS)
        base = _V2_MODULE if module == _V1_MODULE else module
        return cst.Attribute(cst.Name(base), cst.Name(_CONFIG_CLASS))

    # Keys

    def leave_Subscript(  # noqa: N802
        self, original_node: cst.Subscript, updated_node: cst.Subscript
    ) -> cst.BaseExpression:
        of = original_node.value
        index = updated_node.slice[0].slice if len(updated_node.slice) == 1 else None
        key = index.value if isinstance(index, cst.Index) else None
        name = _text(key) if key is not None else None
        if not isinstance(key, cst.SimpleString) or name is None:
            return updated_node
        if _code(of) in self._found.configs and name in _SETTINGS:
            attribute = cst.Name(V1_NAMES.get(name, name))
            return cst.Attribute(updated_node.value, attribute)
        is_result = _code(of) in self._found.results or (
            isinstance(of, cst.Call) and _is_model_call(of)
        )
        if is_result and name in V1_KEYS:
            return updated_node.with_deep_changes(key, value=_renamed(key, V1_KEYS[name]).value)
        return updated_node

    def _is_get_of_result(self, call: cst.Call) -> bool:
        func = call.func
        return (
            isinstance(func, cst.Attribute)
            and func.attr.value == "get"
            and _code(func.value) in self._found.results
            and bool(call.args)
        )

    def _get_of_result(self, call: cst.Call) -> cst.Call:
        key = call.args[0].value
        name = _text(key)
        if not isinstance(key, cst.SimpleString) or name not in V1_KEYS:
            return call
        return call.with_deep_changes(key, value=_renamed(key, V1_KEYS[name]).value)

    def _note(self, node: cst.CSTNode, text: str) -> None:
        self.notes.append((self.get_metadata(PositionProvider, node).start.line, text))


class _ConfigImport(cst.CSTTransformer):
    """Imports DiffusionQuantConfig beside the first import from V2."""

    def __init__(self) -> None:
        super().__init__()
        self._done = False

    def leave_ImportFrom(  # noqa: N802
        self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom
    ) -> cst.ImportFrom:
        module, names = updated_node.module, updated_node.names
        if self._done or module is None or _code(module) != _V2_MODULE:
            return updated_node
        self._done = True
        if isinstance(names, cst.ImportStar):
            return updated_node
        if any(alias.evaluated_name == _CONFIG_CLASS for alias in names):
            return updated_node
        return updated_node.with_changes(names=_with_name(names, _CONFIG_CLASS))


def _with_name(names: Sequence[cst.ImportAlias], name: str) -> list[cst.ImportAlias]:
    """The names with one more behind the first, laid out as they are."""
    first = names[0]
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    if isinstance(first.comma, cst.Comma) and len(names) > 1:
        comma = first.comma
    return [
        first.with_changes(comma=comma),
        cst.ImportAlias(cst.Name(name), comma=first.comma),
        *names[1:],
    ]


def _argument(name: str, value: cst.BaseExpression) -> cst.Arg:
    return cst.Arg(value, cst.Name(name), equal=_TIGHT_EQUAL)


def _setting(argument: cst.Arg) -> cst.Arg:
    """A keyword argument under its V2 name."""
    assert argument.keyword is not None
    name = argument.keyword.value
    return argument.with_changes(keyword=cst.Name(V1_NAMES.get(name, name)))


def _one_line(call: cst.Call) -> cst.Call:
    space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    arguments = [
        arg.with_changes(comma=space, whitespace_after_arg=cst.SimpleWhitespace(""))
        for arg in call.args
    ]
    arguments[-1] = arguments[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return call.with_changes(args=arguments)


def _closed(argument: cst.Arg, before_brace: cst.BaseParenthesizableWhitespace) -> cst.Arg:
    """The last argument, with what stood before the closing brace behind it."""
    if isinstance(argument.comma, cst.Comma):
        return argument.with_changes(
            comma=argument.comma.with_changes(whitespace_after=before_brace)
        )
    return argument.with_changes(whitespace_after_arg=before_brace)
