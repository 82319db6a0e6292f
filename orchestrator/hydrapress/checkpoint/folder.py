"""Checkpoint: a torch model on disk, without pickle.

A folder holds ``architecture.json`` (the factory, the surgery since then, the signature),
``weights.safetensors`` (every parameter and buffer, ties once) and the invariants. Reading
one trusts nothing in it: the factory is a registered name or under a prefix that the caller
allows, new layers come from a table, attributes keep their types.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hydrapress._rng import isolated_rng
from hydrapress.artifacts import Factory, Signature, TorchModel
from hydrapress.errors import HydrapressError, ModelError
from hydrapress.invariants import load_invariants, save_invariants
from hydrapress.modeling import output_tensors
from hydrapress.plugins import import_path, installed_plugins

from .architecture import Architecture
from .comparison import find_surgery
from .sameness import holds_meta_tensor
from .surgery import apply_surgery

if TYPE_CHECKING:
    from hydrapress.plugins import Plugins

__all__ = ["load_checkpoint", "save_checkpoint"]

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "weights.safetensors"

_SAMPLE_BATCH = 2
_SAMPLE_SIZE = 8
"""Elements along a free axis other than the batch."""


def save_checkpoint(model: TorchModel, folder: Path, *, plugins: Plugins | None = None) -> None:
    """Write a model into a folder, read it back, and compare the outputs bit for bit.

    The model stays as it is. The same model gives the same bytes.

    Args:
        model: What to save; on any device.
        folder: An existing folder.
        plugins: Where the factory is looked up; the installed ones by default.

    Raises:
        ModelError: If the model can't be described as data (the message names the
            submodule), or what was written gives other outputs.
    """
    known = installed_plugins() if plugins is None else plugins
    trust = (_module_of(model.factory.name),)  # its code made the module: it is in the process
    make = _resolve_factory(model.factory, known, trust)
    surgery = find_surgery(model.module, _fresh_module(make, model.factory))
    tensors, aliases = _distinct_tensors(model.module)
    frozen = tuple(
        name for name, p in _slots(model.module) if isinstance(p, nn.Parameter) and not p.requires_grad
    )
    Architecture(model.factory, model.signature, surgery, aliases, frozen).write(folder / ARCHITECTURE_FILE)
    try:
        save_file(tensors, folder / WEIGHTS_FILE)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE}: the weights can't be written ({error})") from error
    save_invariants(model.invariants, folder)
    _require_same_outputs(model, load_checkpoint(folder, known, trust))


def load_checkpoint(folder: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> TorchModel:
    """Read a model from a folder, in eval mode, on the CPU.

    Args:
        folder: What ``save_checkpoint`` wrote.
        plugins: Where registered factories and invariants are looked up.
        trust: Modules and packages that an import path may lead into.

    Raises:
        ModelError: If a file is missing, malformed or tampered with, or asks for anything
            that is not allowed; nothing is imported before that is checked.
    """
    path = folder / ARCHITECTURE_FILE
    architecture = Architecture.read(path)
    try:
        make = _resolve_factory(architecture.factory, plugins, trust)
        module = apply_surgery(_fresh_module(make, architecture.factory), architecture.surgery)
    except HydrapressError as error:
        raise ModelError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{path}: its modules are nested too deeply to be walked over") from error
    _fill(module, _read_tensors(folder / WEIGHTS_FILE), architecture, folder)
    return TorchModel(
        signature=architecture.signature,
        invariants=load_invariants(folder, plugins.invariants),
        module=module.eval(),
        factory=architecture.factory,
    )


def _resolve_factory(factory: Factory, plugins: Plugins, trust: tuple[str, ...]) -> Callable[..., Any]:
    name = factory.name
    registered = name in plugins.models or not {".", ":"} & set(name)
    module = _module_of(name)
    if not registered and not any(module == p or module.startswith(f"{p}.") for p in trust if p):
        raise ModelError(
            f"factory '{name}' is an import path, and '{module}' is not trusted (trusted: "
            f"{', '.join(trust) or 'nothing'}); if you trust it, allow it by "
            f"hydrapress.load(folder, trust=['{module.partition('.')[0]}'])"
        )
    try:
        return plugins.resolve(plugins.models, "model", name) if registered else import_path(name)
    except HydrapressError:
        raise
    except Exception as error:  # a package may raise anything at import
        raise ModelError(f"factory '{name}' can't be imported ({type(error).__name__}: {error})") from error


def _module_of(path: str) -> str:
    return path.partition(":")[0] if ":" in path else path.rpartition(".")[0]


def _fresh_module(make: Callable[..., Any], factory: Factory) -> nn.Module:
    """Make the factory's module, without memory for its tensors where that works."""
    without_data = _without_data(make, factory)
    if without_data is not None:
        return without_data
    try:
        with isolated_rng(0):
            module: Any = make(**factory.args)
    except Exception as error:  # a factory is third-party code
        raise ModelError(f"factory '{factory.name}' failed with {dict(factory.args)}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"factory '{factory.name}' gives a {type(module).__name__}, not a torch.nn.Module")
    return module


def _without_data(make: Callable[..., Any], factory: Factory) -> nn.Module | None:
    """Make the module on the meta device; ``None`` if its factory needs real numbers."""
    try:
        with warnings.catch_warnings(), torch.device("meta"), isolated_rng(0):
            warnings.simplefilter("ignore")
            module = make(**factory.args)
    except Exception:  # whatever it is, making it with data tells for sure
        return None
    return module if isinstance(module, nn.Module) and not holds_meta_tensor(module) else None


def _slots(module: nn.Module) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Walk over all places for tensors by name; those of a shared module once."""
    for path, submodule in module.named_modules():
        for name, tensor in (*submodule._parameters.items(), *submodule._buffers.items()):
            yield f"{path}.{name}" if path else name, tensor


def _distinct_tensors(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Give each tensor once, on the CPU, and the other names of tied ones."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    spans: dict[tuple[Any, int], list[tuple[int, int, str]]] = {}
    for name, tensor in _slots(module):
        if tensor is None:
            continue
        first = names.setdefault(_identity(tensor), name)
        if first != name:
            aliases[name] = first
            continue
        _require_no_overlap(name, tensor, spans)
        values = tensor.detach().cpu().contiguous()
        whole = values.untyped_storage().nbytes() == values.nbytes
        tensors[name] = values if whole else values.clone()
    return tensors, aliases


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _require_no_overlap(
    name: str, tensor: torch.Tensor, spans: dict[tuple[Any, int], list[tuple[int, int, str]]]
) -> None:
    if tensor.numel() == 0:
        return
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    end = start + (steps + 1) * tensor.element_size()
    others = spans.setdefault((tensor.device, tensor.untyped_storage().data_ptr()), [])
    for other_start, other_end, other in others:
        if start < other_end and other_start < end:
            raise ModelError(
                f"'{name}' and '{other}' are two views of the same memory, which can't be saved; "
                "make one of them a copy by clone()"
            )
    others.append((start, end, name))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors; the library checks every shape against the file's size first."""
    try:
        with safe_open(path, framework="pt") as file:
            # a copy: it outlives the file, and its memory is aligned as torch's own
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: can't be read ({error})") from error


def _fill(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], architecture: Architecture, folder: Path
) -> None:
    slots = dict(_slots(module))
    sources = {name: name for name in tensors} | dict(architecture.aliases)
    problems = [f"'{n}' has no tensor" for n, t in slots.items() if t is not None and n not in sources]
    problems += [f"'{n}' has no place in the model" for n in sources if n not in slots]
    problems += [
        f"'{n}' is tied to '{s}', which is not stored" for n, s in sources.items() if s not in tensors
    ]
    problems += [f"'{n}' is both stored and tied" for n in architecture.aliases if n in tensors]
    problems += [f"'{n}' is frozen, but is no parameter" for n in architecture.frozen if n not in slots]
    if problems:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: does not fit {ARCHITECTURE_FILE}: {'; '.join(problems[:10])}"
        )
    parameters: dict[str, nn.Parameter] = {}
    frozen = set(architecture.frozen)
    for path, submodule in module.named_modules():
        prefix = f"{path}." if path else ""
        for name in list(submodule._parameters):
            source = sources.get(prefix + name)
            if source is None:
                continue
            learns = prefix + name not in frozen
            if learns and not (tensors[source].is_floating_point() or tensors[source].is_complex()):
                raise ModelError(
                    f"{folder / WEIGHTS_FILE}: parameter '{prefix + name}' is of type "
                    f"{tensors[source].dtype}, which takes no gradient, but is not said to be frozen"
                )
            parameter = parameters.setdefault(source, nn.Parameter(tensors[source], requires_grad=learns))
            setattr(submodule, name, parameter)  # recurrent layers keep a second list up to date this way
        for name in submodule._buffers:
            source = sources.get(prefix + name)
            if source is not None:
                submodule._buffers[name] = tensors[source]


def _require_same_outputs(model: TorchModel, loaded: TorchModel) -> None:
    sample = _sample(model.signature)
    try:
        reference = copy.deepcopy(model.module).cpu().eval()
        for tensor in (*reference.parameters(), *reference.buffers()):
            # laid out and aligned as it will be read back; otherwise kernels may round otherwise
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        expected = _run(reference, sample)
    except Exception as error:  # the module is third-party code
        raise ModelError(
            f"the model of factory '{model.factory.name}' can't be run on a sample of its signature "
            f"{[tuple(x.shape) for x in sample]}, so it can't be checked: {error}"
        ) from error
    try:
        got = _run(loaded.module, sample)
    except Exception as error:
        raise ModelError(
            f"the saved model of factory '{model.factory.name}' does not run: {error}"
        ) from error
    if len(got) != len(expected) or not all(map(_same_bits, got, expected)):
        raise ModelError(
            f"the saved model of factory '{model.factory.name}' gives other outputs than the one in memory: "
            "its forward depends on something that is no parameter, buffer or plain attribute"
        )


def _run(module: nn.Module, sample: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad(), isolated_rng(0):
        return output_tensors(module(*(x.clone() for x in sample)))


def _sample(signature: Signature) -> tuple[torch.Tensor, ...]:
    """Make seeded inputs: normal numbers, and the integers 0 and 1 that every vocabulary has."""
    generator = torch.Generator().manual_seed(0)
    sample = []
    for spec in signature.inputs:
        dtype = getattr(torch, spec.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(
                f"signature: input '{spec.name}' has the dtype '{spec.dtype}', which torch does not know"
            )
        batch, *sizes = spec.shape or (None,)
        shape = [batch or _SAMPLE_BATCH, *(size or _SAMPLE_SIZE for size in sizes)]
        if dtype.is_floating_point or dtype.is_complex:
            sample.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            sample.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return tuple(sample)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )
