"""Sameness: whether what a factory makes again equals what a module holds."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import nn

from .plain import is_plain, same_plain

__all__ = ["Sameness", "holds_meta_tensor"]

# the objects are kept beside their ids, for an id is reused once its object is gone
_Compared: TypeAlias = dict[tuple[int, int], tuple[object, object]]


class Sameness:
    """Compares attributes of a module with those of the module that its factory makes.

    A reference to a submodule is the same if both lie at the same path; ``references``
    keeps the factory's ones, so that the caller can tell whether surgery replaced them.
    """

    def __init__(self, module: nn.Module, fresh: nn.Module) -> None:
        """Remember where the submodules of both lie."""
        self._paths: dict[int, str] = {id(m): path for path, m in module.named_modules()}
        self._fresh_paths: dict[int, str] = {id(m): path for path, m in fresh.named_modules()}
        self._tensors = {id(p) for p in [*module.parameters(), *module.buffers()]}
        self.references: list[tuple[nn.Module, str]] = []

    def __call__(self, mine: object, theirs: object) -> bool:
        """Tell whether two attribute values are equal, however deep they are."""
        return self._same(mine, theirs, {})

    def _same(self, a: object, b: object, compared: _Compared) -> bool:
        if id(a) in self._tensors:
            return False
        if isinstance(a, nn.Module) and isinstance(b, nn.Module) and id(a) in self._paths:
            self.references.append((b, self._paths[id(a)]))
            return self._fresh_paths.get(id(b)) == self._paths[id(a)]
        if a is b or (id(a), id(b)) in compared:
            return True
        if type(a) is not type(b) and not (is_plain(a) and is_plain(b)):
            return False
        compared[id(a), id(b)] = (a, b)
        if is_plain(a) and is_plain(b):
            return same_plain(a, b)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        return self._same_parts(a, b, compared)

    def _same_parts(self, a: object, b: object, compared: _Compared) -> bool:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return list(a) == list(b) and self._all(a.values(), b.values(), compared)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            return len(a) == len(b) and self._all(a, b, compared)
        if isinstance(a, types.FunctionType) and isinstance(b, types.FunctionType):
            parts_a, parts_b = _function_parts(a), _function_parts(b)
            return a.__code__ is b.__code__ and self._same(parts_a, parts_b, compared)
        if isinstance(a, types.MethodType) and isinstance(b, types.MethodType):
            return a.__func__ is b.__func__ and self._same(a.__self__, b.__self__, compared)
        if type(a).__module__ == "numpy":
            return getattr(a, "dtype", None) == getattr(b, "dtype", None) and a.tolist() == b.tolist()  # type: ignore[attr-defined]
        if hasattr(a, "__dict__") and type(a).__eq__ is object.__eq__:
            return self._same(vars(a), vars(b), compared)
        try:
            return bool(a == b)
        except (ValueError, TypeError, RuntimeError):  # such as arrays, whose == is no bool
            return False

    def _all(self, a: Iterable[object], b: Iterable[object], compared: _Compared) -> bool:
        return all(self._same(x, y, compared) for x, y in zip(a, b, strict=True))


def holds_meta_tensor(module: nn.Module) -> bool:
    """Tell whether any attribute beside parameters and buffers holds a tensor without data."""
    seen: dict[int, object] = {id(m): m for m in module.modules()}
    return any(
        _reaches_meta(value, seen)
        for submodule in module.modules()
        for name, value in vars(submodule).items()
        if name not in ("_parameters", "_buffers", "_modules", "_flat_weights")
    )


def _reaches_meta(value: object, seen: dict[int, object]) -> bool:
    if id(value) in seen or value is None or isinstance(value, str | int | float | type | types.ModuleType):
        return False
    seen[id(value)] = value
    if isinstance(value, torch.Tensor):
        return value.is_meta
    if isinstance(value, Mapping):
        return any(_reaches_meta(item, seen) for item in value.values())
    if isinstance(value, list | tuple | set):
        return any(_reaches_meta(item, seen) for item in value)
    if isinstance(value, types.FunctionType):
        return any(_reaches_meta(part, seen) for part in _function_parts(value))
    return any(_reaches_meta(item, seen) for item in getattr(value, "__dict__", {}).values())


def _function_parts(function: types.FunctionType) -> list[object]:
    cells: list[object] = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # an empty cell: the name is not bound yet
            cells.append(None)
    return [cells, list(function.__defaults__ or ()), dict(function.__kwdefaults__ or {})]
