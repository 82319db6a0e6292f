"""Surgery: what was done to a module since its factory made it, as data.

``hydrapress.checkpoint.comparison`` finds it; ``apply_surgery`` does the same changes to a fresh
module tree. Tensors are no part of it: they come with their own shapes from the weights file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hydrapress.errors import ModelError

from .layers import build_layer
from .plain import Plain, fit, is_plain

__all__ = [
    "BOOKKEEPING",
    "RECURRENT_BOOKKEEPING",
    "Change",
    "apply_change",
    "apply_surgery",
    "attribute_of",
    "find_module",
    "has_attribute",
    "place",
    "require_module",
]

BOOKKEEPING = frozenset(vars(nn.Module()))
"""Attributes that every module has for torch's own use."""

RECURRENT_BOOKKEEPING = frozenset({"_flat_weights", "_flat_weight_refs"})
"""Lists of the parameters again, which torch keeps up to date itself."""

_MOST_PATHS = 1_000_000
"""Modules that share modules that share modules grow without bound."""


@dataclass(frozen=True)
class Change:
    """What differs at one path of the module tree.

    Attributes:
        path: The module's path, "" for the whole model.
        new: Class of a standard layer that takes the place of what was there.
        args: Its constructor's arguments.
        same: Path of an earlier module that is shared at this place.
        set: Plain attributes with another value.
        drop: Children that are gone.
        absent: Parameters, buffers and children that became ``None``.
        parameters: Parameters under names that the factory's module does not have.
        buffers: Such buffers, or those of another persistence: name -> persistent.
        order: Names of all children, where their order is another.
    """

    path: str
    new: str | None = None
    args: Mapping[str, Plain] = field(default_factory=dict)
    same: str | None = None
    set: Mapping[str, Plain] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    buffers: Mapping[str, bool] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def place(path: str, name: str = "") -> str:
    """Name a module, or a member of it, for a message."""
    full = ".".join(part for part in (path, name) if part)
    return f"'{full}'" if full else "the model itself"


def apply_surgery(fresh: nn.Module, changes: Sequence[Change]) -> nn.Module:
    """Do the changes to a module as its factory made it.

    Args:
        fresh: The factory's module; it is changed.
        changes: As ``find_surgery`` gave them, or as a file claims them.

    Returns:
        The module; another one if the whole model was replaced.

    Raises:
        ModelError: If a change names what is not there, or sets an attribute that does
            not exist or has another type.
    """
    root = fresh
    for change in changes:
        root = apply_change(root, change)
    for change in changes:
        if change.order:
            target = require_module(root, change.path)
            if sorted(change.order) != sorted(target._modules):
                raise ModelError(
                    f"{place(change.path)}: 'order' does not name exactly the children that it has"
                )
            for name in change.order:
                target._modules[name] = target._modules.pop(name)
    _count_paths(root, "", {})
    return root


def apply_change(root: nn.Module, change: Change) -> nn.Module:
    """Do one change in place and give the root, another one if it was replaced.

    Raises:
        ModelError: If the change does not fit the tree.
    """
    if change.new is not None:
        root = _put(root, change.path, build_layer(change.new, change.args))
    elif change.same is not None:
        root = _put(root, change.path, require_module(root, change.same))
    target = require_module(root, change.path)
    for name, value in change.set.items():
        _set(target, change.path, name, value)
    for name in change.drop:
        if name not in target._modules:
            raise ModelError(f"{place(change.path, name)} can't be dropped; it is not there")
        del target._modules[name]
    for name in change.parameters:
        _make_room(target, change.path, name, target._parameters)
        target.register_parameter(name, None)
    for name, persistent in change.buffers.items():
        _make_room(target, change.path, name, target._buffers)
        target.register_buffer(name, target._buffers.get(name), persistent=persistent)
    for name in change.absent:
        members: Any = next(
            (m for m in (target._modules, target._parameters, target._buffers) if name in m), None
        )
        if members is None:
            raise ModelError(f"{place(change.path, name)} can't become None; it is not there")
        members[name] = None
    return root


def _set(target: nn.Module, path: str, name: str, value: Plain) -> None:
    bookkeeping = name in BOOKKEEPING or name in RECURRENT_BOOKKEEPING or name.startswith("__")
    if bookkeeping or not has_attribute(target, name):
        raise ModelError(f"{place(path)} has no attribute '{name}' that could be set")
    try:
        target.__dict__[name] = fit(attribute_of(target, name), value)
    except TypeError as error:
        raise ModelError(f"{place(path)}: attribute '{name}' can't be set ({error})") from error


def _put(root: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent_path, _, name = path.rpartition(".")
    parent = require_module(root, parent_path)
    _make_room(parent, parent_path, name, parent._modules)
    parent._modules[name] = module
    return root


def _make_room(target: nn.Module, path: str, name: str, members: Mapping[str, Any]) -> None:
    """Allow a new member only where there is none, or a plain attribute that is None."""
    if name in members:
        return
    if not name or "." in name:
        raise ModelError(f"{place(path)} can't have a member named '{name}'")
    if name in vars(target) and vars(target)[name] is None:
        del target.__dict__[name]
    elif hasattr(target, name):
        raise ModelError(f"{place(path)} has an attribute '{name}' already; nothing new can be put there")


def has_attribute(module: nn.Module, name: str) -> bool:
    """Tell whether a module, or plainly its class, has an attribute of this name."""
    return name in vars(module) or is_plain(inspect.getattr_static(type(module), name, object()))


def attribute_of(module: nn.Module, name: str) -> object:
    """Give an attribute without running code of the module's class."""
    return vars(module)[name] if name in vars(module) else inspect.getattr_static(type(module), name)


def _count_paths(module: nn.Module, path: str, counts: dict[int, int | None]) -> int:
    """Count the paths through a tree with shared modules, so that walking it must end."""
    if id(module) in counts:
        known = counts[id(module)]
        if known is None:
            raise ModelError(f"{place(path)} contains itself")
        return known
    counts[id(module)] = None
    children = [(name, child) for name, child in module._modules.items() if child is not None]
    total = 1 + sum(_count_paths(child, f"{path}.{name}".strip("."), counts) for name, child in children)
    if total > _MOST_PATHS:
        raise ModelError(f"{place(path)} leads to more than {_MOST_PATHS} modules, counted by their paths")
    counts[id(module)] = total
    return total


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """Give the module at a path, or ``None``; "" is the root."""
    found: nn.Module | None = root
    for name in path.split(".") if path else ():
        found = found._modules.get(name) if found is not None else None
    return found


def require_module(root: nn.Module, path: str) -> nn.Module:
    """Give the module at a path.

    Raises:
        ModelError: If there is none.
    """
    found = find_module(root, path)
    if found is None:
        raise ModelError(f"there is no module {place(path)}; what is put in needs a parent that is there")
    return found
