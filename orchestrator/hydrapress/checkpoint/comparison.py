"""Comparison: how a module differs from what its factory makes afresh, as surgery."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from hydrapress.errors import ModelError

from .layers import build_layer, describe_layer
from .plain import Plain, as_plain, fit
from .sameness import Sameness
from .surgery import (
    BOOKKEEPING,
    RECURRENT_BOOKKEEPING,
    Change,
    apply_change,
    attribute_of,
    find_module,
    has_attribute,
    place,
    require_module,
)

__all__ = ["find_surgery"]

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
        if find_module(search.root, path) is not reference:
            raise ModelError(
                f"{place(path)} was replaced, but another module of the model still refers to the old one "
                "by a plain attribute; let it look the module up instead"
            )
    return tuple(search.changes)


class _Search:
    def __init__(self, module: nn.Module, fresh: nn.Module) -> None:
        self.root = fresh
        self.changes: list[Change] = []
        self.same = Sameness(module, fresh)
        self._seen: dict[int, str] = {}
        self._fresh_seen: dict[int, nn.Module] = {}

    def visit(self, path: str, module: nn.Module) -> None:
        fresh = find_module(self.root, path)
        if id(module) in self._seen:
            first = self._seen[id(module)]
            if fresh is None or fresh is not find_module(self.root, first):
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
        return require_module(self.root, path)

    def _record(self, change: Change) -> None:
        if change != Change(change.path):
            self.changes.append(change)
            self.root = apply_change(self.root, change)


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
    skipped = BOOKKEEPING | RECURRENT_BOOKKEEPING if isinstance(module, nn.RNNBase) else BOOKKEEPING
    changed = {}
    for name, value in vars(module).items():
        if name in skipped:
            continue
        if name == "forward" and name not in vars(fresh):
            raise ModelError(f"{place(path)} has a patched 'forward'; put the change into a module class")
        if not has_attribute(fresh, name):
            raise ModelError(
                f"{place(path)} has an attribute '{name}' that its factory does not give it; "
                "only attributes that exist can be saved"
            )
        old = attribute_of(fresh, name)
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


def _require_same_hooks(path: str, module: nn.Module, fresh: nn.Module, attribute: str, what: str) -> None:
    mine = [_hook_name(hook) for hook in getattr(module, attribute).values()]
    theirs = [_hook_name(hook) for hook in getattr(fresh, attribute).values()]
    if mine != theirs:
        extra = next((name for name in mine if name not in theirs), "one less than its factory gives")
        raise ModelError(f"{place(path)} has {what} ({extra}), which can't be saved; remove it before saving")


def _require_plain_tensor(path: str, name: str, tensor: torch.Tensor) -> None:
    where = place(path, name)
    if nn.parameter.is_lazy(tensor):
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
            f"{place(path)} has a parametrization, which can't be saved; "
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


def _tensors(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {**module._parameters, **module._buffers}


def _hook_name(hook: object) -> str:
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"
