"""Every value inside a PyTorch module, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
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

    Raises:
        BackendError: If the module can't be exported or run.
    """
    tensors = tuple(map(torch.from_numpy, inputs))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, tensors)
            keeper = _Keeper(program.graph_module)
            keeper.run(*program._graph_module_flat_inputs(tensors, {}))
    except Exception as error:  # the module is third-party code
        raise BackendError(
            f"torch can't show the values inside {type(module).__name__}: {type(error).__name__}: {error}"
        ) from error
    signature = program.graph_signature
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    layers = tuple(_layers(program.graph, parameters))
    values = {name: value.numpy() for name, value in keeper.values.items() if name not in parameters}
    return Trace(layers, values)


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
