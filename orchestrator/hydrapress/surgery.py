"""Surgery: what was done to a module since its factory made it, as data.

``find_surgery`` compares a module tree with the factory's fresh one and gives one
``Change`` a path; ``apply_surgery`` does the same changes to a fresh tree. Tensors are no
part of it: they come with their own shapes from the weights file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ._sameness import Sameness
from .errors import ModelError
from .layers import build_layer, describe_layer
from .plain import Plain, fit, is_plain

__all__ = ["Change", "apply_surgery", "find_surgery", "place"]

_BOOKKEEPING = frozenset(vars(nn.Module()))
"""Attributes that every module has for torch's own use."""

_RECURRENT_BOOKKEEPING = frozenset({"_flat_weights", "_flat_weight_refs"})
"""Lists of the parameters again, which torch keeps up to date itself."""

_MOST_PATHS = 1_000_000
"""Modules that share modules that share modules grow without bound."""

_HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
    "_state_dict_hooks": "a state-dict hook",
    "_state_dict_pre_hooks": "a state-dict pre-hook",
    "_load_state_dict_pre_hooks": "a load-state-dict pre-hook",
    "_load_state_dict_post_hooks": "a load-state-dict post-hook",
}


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


def find_surgery(module: nn.Module, fresh: nn.Module) -> tuple[Change, ...]:
    """Compare a module with the one that its factory makes afresh.

    Args:
        module: The module; it stays as it is.
        fresh: The factory's; the changes found are applied to it on the way.

    Returns:
        The changes, parents before children.

    Raises:
        ModelError: If a difference can't be said as data; it names the path.
    """
    search = _Search(module, fresh)
    search.visit("", module)
    for reference, path in search.same.references:
        if _find(search.root, path) is not reference:
            raise ModelError(
                f"{place(path)} was replaced, but another module of the model still refers to the old one "
                "by a plain attribute; let it look the module up instead"
            )
    return tuple(search.changes)


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
        root = _apply(root, change)
    for change in changes:
        if change.order:
            target = _require(root, change.path)
            if sorted(change.order) != sorted(target._modules):
                raise ModelError(
                    f"{place(change.path)}: 'order' does not name exactly the children that it has"
                )
            for name in change.order:
                target._modules[name] = target._modules.pop(name)
    _count_paths(root, "", {})
    return root


class _Search:
    def __init__(self, module: nn.Module, fresh: nn.Module) -> None:
        self.root = fresh
        self.changes: list[Change] = []
        self.same = Sameness(module, fresh)
        self._seen: dict[int, str] = {}
        self._fresh_seen: dict[int, nn.Module] = {}

    def visit(self, path: str, module: nn.Module) -> None:
        fresh = _find(self.root, path)
        if id(module) in self._seen:
            first = self._seen[id(module)]
            if fresh is None or fresh is not _find(self.root, first):
                self._record(Change(path, same=first))
            return
        self._seen[id(module)] = path
        fresh = self._compare(path, module, fresh)
        self._fresh_seen[id(fresh)] = fresh
        for name, child in module._modules.items():
            if child is not None:
                self.visit(f"{path}.{name}" if path else name, child)

    def _compare(self, path: str, module: nn.Module, fresh: nn.Module | None) -> nn.Module:
        layer = describe_layer(module)
        if fresh is not None and id(fresh) not in self._fresh_seen and _same_class(module, fresh):
            try:
                self._record(_describe(path, module, fresh, self.same))
                return fresh
            except ModelError:
                # a container is not made anew: its children would have to be, too
                if layer is None or fresh._modules:
                    raise
        if layer is None:
            raise ModelError(_no_layer(path, module, fresh))
        name, args = layer
        built = build_layer(name, args)
        rest = _describe(path, module, built, self.same)
        self._record(replace(rest, new=name, args=args))
        return _require(self.root, path)

    def _record(self, change: Change) -> None:
        if change != Change(change.path):
            self.changes.append(change)
            self.root = _apply(self.root, change)


def _describe(path: str, module: nn.Module, fresh: nn.Module, same: Sameness) -> Change:
    """Tell how a module differs from a fresh one of its class, children's insides aside."""
    for attribute, what in _HOOKS.items():
        _require_same_hooks(path, module, fresh, attribute, what)
    mine, theirs = module._modules, fresh._modules
    drop = tuple(name for name in theirs if name not in mine)
    kept = [name for name in theirs if name in mine]
    order = [*kept, *(name for name in mine if name not in theirs)]
    real = [name for name in order if mine[name] is not None or name in theirs]
    absent = [name for name, child in mine.items() if child is None and theirs.get(name) is not None]
    absent += [
        n for n, tensor in _tensors(module).items() if tensor is None and _tensors(fresh).get(n) is not None
    ]
    for name, tensor in _tensors(module).items():
        if tensor is not None:
            _require_plain_tensor(path, name, tensor)
    persistence = {n: n not in module._non_persistent_buffers_set for n in module._buffers}
    old_persistence = {n: n not in fresh._non_persistent_buffers_set for n in fresh._buffers}
    return Change(
        path,
        set=_changed_attributes(path, module, fresh, same),
        drop=drop,
        absent=tuple(absent),
        parameters=tuple(name for name in module._parameters if name not in fresh._parameters),
        buffers={n: p for n, p in persistence.items() if old_persistence.get(n) is not p},
        order=tuple(name for name in mine if name in real) if order != list(mine) else (),
    )


def _changed_attributes(path: str, module: nn.Module, fresh: nn.Module, same: Sameness) -> dict[str, Plain]:
    skipped = _BOOKKEEPING | _RECURRENT_BOOKKEEPING if isinstance(module, nn.RNNBase) else _BOOKKEEPING
    changed = {}
    for name, value in vars(module).items():
        if name in skipped:
            continue
        if name == "forward" and name not in vars(fresh):
            raise ModelError(f"{place(path)} has a patched 'forward'; put the change into a module class")
        if not _has_attribute(fresh, name):
            raise ModelError(
                f"{place(path)} has an attribute '{name}' that its factory does not give it; "
                "only attributes that exist can be saved"
            )
        old = _attribute(fresh, name)
        if same(value, old):
            continue
        try:
            fit(old, value)
        except TypeError as error:
            raise ModelError(
                f"{place(path)}: attribute '{name}' differs from the factory's and can't be saved ({error})"
            ) from error
        changed[name] = as_plain(value)
    members = {*vars(module), *module._modules, *module._parameters, *module._buffers}
    gone = [n for n in (*vars(fresh), *fresh._parameters, *fresh._buffers) if n not in members]
    if gone:
        raise ModelError(f"{place(path)} has lost its '{gone[0]}'; set it to None instead of deleting it")
    return changed


def _apply(root: nn.Module, change: Change) -> nn.Module:
    if change.new is not None:
        root = _put(root, change.path, build_layer(change.new, change.args))
    elif change.same is not None:
        root = _put(root, change.path, _require(root, change.same))
    target = _require(root, change.path)
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
        members: Any = next((m for m in (target._modules, *_stores(target)) if name in m), None)
        if members is None:
            raise ModelError(f"{place(change.path, name)} can't become None; it is not there")
        members[name] = None
    return root


def _set(target: nn.Module, path: str, name: str, value: Plain) -> None:
    bookkeeping = name in _BOOKKEEPING or name in _RECURRENT_BOOKKEEPING or name.startswith("__")
    if bookkeeping or not _has_attribute(target, name):
        raise ModelError(f"{place(path)} has no attribute '{name}' that could be set")
    try:
        target.__dict__[name] = fit(_attribute(target, name), value)
    except TypeError as error:
        raise ModelError(f"{place(path)}: attribute '{name}' can't be set ({error})") from error


def _put(root: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent_path, _, name = path.rpartition(".")
    parent = _require(root, parent_path)
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


def _require_same_hooks(path: str, module: nn.Module, fresh: nn.Module, attribute: str, what: str) -> None:
    mine = [_hook_name(hook) for hook in getattr(module, attribute).values()]
    theirs = [_hook_name(hook) for hook in getattr(fresh, attribute).values()]
    if mine != theirs:
        extra = next((name for name in mine if name not in theirs), "one less than its factory gives")
        raise ModelError(f"{place(path)} has {what} ({extra}), which can't be saved; remove it before saving")


def _require_plain_tensor(path: str, name: str, tensor: torch.Tensor) -> None:
    where = place(path, name)
    if nn.parameter.is_lazy(tensor):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        raise ModelError(f"{where} has no shape yet; run the model once before saving")
    if (
        type(tensor) not in (torch.Tensor, nn.Parameter)
        or tensor.layout is not torch.strided
        or tensor.is_meta
    ):
        kind = "a tensor without data" if tensor.is_meta else f"a {type(tensor).__name__} ({tensor.layout})"
        raise ModelError(f"{where} is {kind}; only plain dense tensors can be saved")
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise ModelError(f"{where} has a gradient hook, which can't be saved; remove it before saving")


def _no_layer(path: str, module: nn.Module, fresh: nn.Module | None) -> str:
    cls = f"{type(module).__module__}.{type(module).__qualname__}"
    if hasattr(module, "parametrizations"):
        return (
            f"{place(path)} has a parametrization of '{next(iter(module.parametrizations))}', which can't be saved; "  # type: ignore[arg-type]
            "call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    instead = (
        f"where its factory makes a {type(fresh).__name__}"
        if fresh is not None
        else "where its factory makes nothing"
    )
    return (
        f"{place(path)} is a {cls} {instead}; only standard torch.nn layers can be put in "
        "(let the factory make the others)"
    )


def _same_class(module: nn.Module, fresh: nn.Module) -> bool:
    a, b = type(module), type(fresh)
    return a is b or (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def _has_attribute(module: nn.Module, name: str) -> bool:
    return name in vars(module) or is_plain(inspect.getattr_static(type(module), name, object()))


def _attribute(module: nn.Module, name: str) -> object:
    return vars(module)[name] if name in vars(module) else inspect.getattr_static(type(module), name)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {**module._parameters, **module._buffers}


def _stores(module: nn.Module) -> tuple[Any, Any]:
    return module._parameters, module._buffers


def _hook_name(hook: object) -> str:
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"


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


def _find(root: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = root
    for name in path.split(".") if path else ():
        found = found._modules.get(name) if found is not None else None
    return found


def _require(root: nn.Module, path: str) -> nn.Module:
    found = _find(root, path)
    if found is None:
        raise ModelError(f"there is no module {place(path)}; what is put in needs a parent that is there")
    return found
