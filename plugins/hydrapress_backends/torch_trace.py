"""Every value inside a PyTorch module, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from hydrapress.backend import Layer, Trace
from hydrapress.errors import BackendError
from hydrapress.quiet import quiet

if TYPE_CHECKING:
    import numpy as np

__all__ = ["trace_module"]


def trace_module(module: torch.nn.Module, inputs: tuple[np.ndarray, ...]) -> Trace:
    """Export a module and run its graph, keeping every tensor on the way.

    A layer is named by its module's path, and by the operator where the module has several.
    A module that can't be exported, because its Python code depends on values, is run as it
    is, and its layers are its leaf modules.

    Raises:
        BackendError: If the module can't be run.
    """
    tensors = tuple(map(torch.from_numpy, inputs))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, tensors)
    except Exception:  # the exporter lets through whatever the module raises
        return _leaves(module, tensors)
    keeper = _Keeper(program.graph_module)
    try:
        with torch.no_grad():
            keeper.run(*program._graph_module_flat_inputs(tensors, {}))
    except Exception as error:  # the module is third-party code
        raise _failed(module, error) from error
    signature = program.graph_signature
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    layers = tuple(_layers(program.graph, parameters))
    values = {name: value.numpy() for name, value in keeper.values.items() if name not in parameters}
    return Trace(layers, values)


def _failed(module: torch.nn.Module, error: Exception) -> BackendError:
    return BackendError(
        f"torch can't show the values inside {type(module).__name__}: {type(error).__name__}: {error}"
    )


def _leaves(module: torch.nn.Module, tensors: tuple[torch.Tensor, ...]) -> Trace:
    """Run a module and keep what its leaf modules give; a second call of one counts anew."""
    layers: list[Layer] = []
    values: dict[str, np.ndarray] = {}
    names: dict[int, str] = {}
    held: list[torch.Tensor] = []  # a freed tensor's id would be given to another

    def name_of(tensor: torch.Tensor, proposed: str) -> str:
        if id(tensor) not in names:
            names[id(tensor)] = proposed
            held.append(tensor)
            values[proposed] = tensor.detach().cpu().clone().numpy()
        return names[id(tensor)]

    def keep(path: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(leaf: torch.nn.Module, given: Any, result: Any) -> None:
            index = len(layers)
            layers.append(
                Layer(
                    name=path if all(layer.name != path for layer in layers) else f"{path}.{index}",
                    kind=type(leaf).__name__,
                    inputs=tuple(
                        name_of(each, f"value_{index}_{at}") for at, each in enumerate(_tensors(given))
                    ),
                    outputs=tuple(
                        name_of(each, f"{path}:{index}:{at}") for at, each in enumerate(_tensors(result))
                    ),
                    constants=tuple(f"{path}.{name}" for name, _ in leaf.named_parameters()),
                )
            )

        return hook

    handles = [
        leaf.register_forward_hook(keep(path))
        for path, leaf in module.named_modules()
        if path and not any(True for _ in leaf.children())
    ]
    try:
        for index, tensor in enumerate(tensors):
            name_of(tensor, f"input_{index}")
        with torch.no_grad():
            module(*tensors)
    except Exception as error:  # the module is third-party code
        raise _failed(module, error) from error
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(layers), values)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for each in value for t in _tensors(each)] if isinstance(value, tuple | list) else []


class _Keeper(torch.fx.Interpreter):
    """Runs a graph and keeps its tensors by the names of its nodes."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            # a later operator may write into it
            self.values[n.name] = result.detach().cpu().clone()
        return result


def _layers(graph: torch.fx.Graph, parameters: dict[str, str]) -> Iterator[Layer]:
    taken: set[str] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        given = [arg.name for arg in node.all_input_nodes]
        path = _module_path(node)
        name = path if path and path not in taken else ".".join(filter(None, (path, node.name)))
        taken.add(name)
        yield Layer(
            name=name,
            kind=str(getattr(node.target, "__name__", node.target)),
            inputs=tuple(n for n in given if n not in parameters),
            outputs=(node.name,),
            constants=tuple(parameters[n] for n in given if n in parameters),
        )


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return paths[-1] if paths else ""
