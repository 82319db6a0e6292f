"""What the JSON of a ``torch.export`` program may say, so that loading it executes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydrapress.errors import ModelError

__all__ = ["harmless_program"]

_OPERATOR = re.compile(
    r"torch\.ops\.(?:(?:aten|prims|quantized_decomposed)\.([a-z0-9_]+)\.[A-Za-z0-9_]+|"
    # of these the graph itself holds the parts that they call
    r"higher_order\.(?:cond|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast))\Z"
)
_PYTHON = re.compile(
    r"(_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|abs|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|"
    r"lshift|rshift)|math\.(ceil|floor|trunc|sqrt|pow)|torch\.sym_[a-z_]+)\Z"
)
_REACHING_OUT = frozenset({"from_file", "save", "load"})
"""Operators that read or write files."""

_NAME = re.compile(r"[A-Za-z0-9_.]*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TEXT = re.compile(r"[A-Za-z0-9_ .,:;<>=+*/@()\[\]-]*\Z")
"""No quotes, backslashes or line ends: nothing that ends a string of Python."""

_FREE_TEXT = frozenset({"as_string", "as_strings", "nn_module_stack", "torch_version"})
_NO_NUMBERS = frozenset({"Infinity", "-Infinity", "NaN"})
_IDENTIFIERS = frozenset({"forward_arg_names"})
_TREES = frozenset({"in_spec", "out_spec"})
_TREE_TYPES = frozenset(
    {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
     "torch.utils._pytree.immutable_list", "torch.fx.immutable_collections.immutable_list",
     "torch.fx.immutable_collections.immutable_dict", None}
)  # fmt: skip
_SIZE_PART = re.compile(
    r"\s*(?:'([su]\d{1,9})'|([A-Za-z_][A-Za-z0-9_]*)|(\d{1,18}(?:\.\d{1,18})?)|([-+*/%(),=<>]))"
)
_SIZE_WORDS = frozenset(
    {"Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "Integer",
     "Rational", "Symbol", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "Equality", "Unequality", "GreaterThan",
     "StrictGreaterThan", "LessThan", "StrictLessThan", "And", "Or", "Not", "true", "false", "positive",
     "nonnegative", "integer", "True", "False", "oo", "int_oo", "IntTrueDiv", "ToFloat", "TruncToInt",
     "ModularIndexing", "Identity"}
)  # fmt: skip
_MAX_SIZE_LENGTH = 4096
_MAX_DEPTH = 100


def harmless_program(path: Path, member: str, program: Any) -> dict[str, Any]:
    """Give a program without the parts that torch would compile or that tell of a machine.

    Args:
        path: The archive.
        member: The program's path inside.
        program: Its JSON.

    Returns:
        The same program; of the remarks on each node only the path of its module is kept, and
        of the guards none: torch makes anew those that follow from the sizes.

    Raises:
        ModelError: If it calls what is no operator on numbers, or holds a name, a size or a
            tree of arguments that torch would take for code.
    """
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise ModelError(f"{path}: '{member}' holds no program; export it again")
    cleaned: dict[str, Any] = _cleaned(f"{path}: '{member}'", program | {"guards_code": []}, "", 0)
    return cleaned


def _cleaned(what: str, value: Any, key: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ModelError(f"{what} is nested more than {_MAX_DEPTH} deep; export it again")
    if isinstance(value, str):
        _require_harmless(what, key, value)
        return value
    if isinstance(value, list):
        return [_cleaned(what, item, key, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    for name in value:
        _require_harmless(what, "", name)
    if isinstance(value.get("metadata"), dict) and "target" in value:
        stack = value["metadata"].get("nn_module_stack")
        value = value | {"metadata": {} if not isinstance(stack, str) else {"nn_module_stack": stack}}
    return {name: _cleaned(what, item, name, depth + 1) for name, item in value.items()}


def _require_harmless(what: str, key: str, text: str) -> None:
    if key == "target":
        found = _OPERATOR.match(text)
        if not (_PYTHON.match(text) or (found and found[1] not in _REACHING_OUT)):
            raise ModelError(f"{what} calls '{text}', which is no operator on numbers and is not loaded")
    elif key == "expr_str":
        if not _is_size(text):
            raise ModelError(f"{what} has the symbolic size {text[:80]!r}, which is no arithmetic")
    elif key in _TREES:
        if not _is_plain_tree(text):
            raise ModelError(f"{what} takes or gives something else than tuples, lists and dicts of tensors")
    elif key in _FREE_TEXT:
        if not _TEXT.match(text):
            raise ModelError(f"{what} holds the text {text[:80]!r} as '{key}', which could end a string")
    elif key == "as_float":
        if text not in _NO_NUMBERS:
            raise ModelError(f"{what} holds {text[:80]!r} as a number")
    elif not (_IDENTIFIER if key in _IDENTIFIERS else _NAME).match(text):
        raise ModelError(f"{what} holds the name {text[:80]!r} as '{key}', which is no name")


def _is_size(text: str) -> bool:
    """Tell whether a size is made of symbols, whole numbers and arithmetic alone."""
    place, powers = 0, 0
    while place < len(text.rstrip()):
        part = _SIZE_PART.match(text, place)
        if part is None:
            return False
        symbol, word = part[1], part[2]
        if word and word not in _SIZE_WORDS and not re.fullmatch(r"[su]\d{1,9}", word):
            return False
        # powers of powers are how a short text keeps a computer busy for years
        powers += word == "Pow" or text.startswith("**", part.start(4)) if symbol is None else 0
        place = part.end()
    return powers <= 1 and len(text) <= _MAX_SIZE_LENGTH


def _is_plain_tree(text: str) -> bool:
    try:
        waiting = [json.loads(text)]
    except (ValueError, RecursionError):
        return False
    if isinstance(waiting[0], list):  # a version, then the tree
        waiting = waiting[0][1:]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Mapping) or node.get("type") not in _TREE_TYPES:
            return False
        if not _is_plain_context(node.get("context")) or not isinstance(node.get("children_spec"), list):
            return False
        waiting += node["children_spec"]
    return True


def _is_plain_context(context: Any) -> bool:
    """Tell whether it is nothing, or a list of keys."""
    if context is None:
        return True
    try:
        keys = json.loads(context) if isinstance(context, str) else context
    except (ValueError, RecursionError):
        return False
    if keys is None:
        return True
    return isinstance(keys, list) and all(
        isinstance(k, int) or (isinstance(k, str) and _NAME.match(k)) for k in keys
    )
