"""Graph: stages and edges, checked by type before anything runs.

All problems are reported at once, and no torch is imported to find them.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .config import stage_from
from .errors import ConfigError, GraphError, near_names
from .stage import Port, Stage, missing_needs, ports_of, product_of, stage_name

if TYPE_CHECKING:
    from .artifacts import Artifact
    from .plugins import Plugins, StageSpec

__all__ = ["Graph", "Node"]


@dataclass(frozen=True)
class Node:
    """A stage in its slot.

    Attributes:
        id: The slot's name.
        stage: The stage, its fields checked.
        inputs: The slots that feed each port, by port name, in order.
        enabled: ``False`` while the graph is being read; a finished graph has only
            enabled nodes.
    """

    id: str
    stage: Stage
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    enabled: bool = True

    @property
    def ports(self) -> tuple[Port, ...]:
        """The stage's ports."""
        return ports_of(type(self.stage))

    @property
    def product(self) -> type[Artifact]:
        """What the stage yields."""
        return product_of(type(self.stage))

    @property
    def sources(self) -> tuple[str, ...]:
        """Every slot that feeds it, in port order."""
        return tuple(source for sources in self.inputs.values() for source in sources)

    def __str__(self) -> str:
        """Write it as logs, errors and ``hydrapress graph`` show it."""
        inputs = ", ".join(
            f"{port}={'+'.join(sources)}" if len(self.inputs) > 1 else ", ".join(sources)
            for port, sources in self.inputs.items()
        )
        return f"{self.id}: {stage_name(type(self.stage))}({inputs}) -> {self.product.__name__}"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run.

    Attributes:
        nodes: By id; every node comes after all that feed it.
        bypassed: Disabled slots, each with the slot that takes its place (``None`` where
            nothing needed it).
    """

    nodes: Mapping[str, Node]
    bypassed: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def from_config(cls, slots: Mapping[str, Any], plugins: Plugins) -> Graph:
        """Read and check a pipeline.

        Args:
            slots: Slot name -> its config: ``use``, ``inputs``, ``enabled`` and the fields.
            plugins: Where stages are looked up.

        Raises:
            GraphError: If anything is wrong; all problems at once.
        """
        if not slots:
            raise GraphError("the pipeline has no stage; choose one, such as pipeline=prune_int8")
        problems: list[str] = []
        drafts: dict[str, _Draft] = {}
        for slot, config in slots.items():
            draft, found = _read_slot(slot, config, slots, plugins)
            problems += found
            if draft is not None:
                drafts[slot] = draft
        if len(drafts) < len(slots) and plugins.broken_packages():
            problems.append(plugins.broken_packages().strip())
        cycles = _cycles(drafts)
        # a cycle of disabled stages has no end to stand in, so types are asked only without one
        problems += _missing_needs(drafts)
        problems += cycles or _bad_bypasses(drafts) + _type_mismatches(drafts)
        if problems:
            raise GraphError(problems)
        return cls(
            {
                id_: Node(id_, draft.stage, draft.inputs)
                for id_, draft in _in_order(_without_disabled(drafts)).items()
                if draft.stage is not None
            },
            _bypassed(drafts),
        )

    def __str__(self) -> str:
        """One line a node, in running order."""
        return "\n".join(map(str, self.nodes.values()))

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Every (source, target)."""
        return tuple((source, node.id) for node in self.nodes.values() for source in node.sources)


@dataclass(frozen=True)
class _Draft:
    """A slot as it was read; ``stage`` is ``None`` while its fields are wrong."""

    id: str
    spec: StageSpec
    stage: Stage | None
    inputs: Mapping[str, tuple[str, ...]]
    enabled: bool

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for sources in self.inputs.values() for source in sources)


def _read_slot(
    slot: str, config: Any, known: Iterable[str], plugins: Plugins
) -> tuple[_Draft | None, list[str]]:
    """Read one slot, and list all that is wrong in it alone."""
    where = f"stages.{slot}"
    use = config.get("use") if hasattr(config, "get") else None
    if not use:
        return None, [f"{where}: no stage is chosen; add stage@{where}=<kind>/<name>"]
    spec = plugins.stages.get(str(use))
    if spec is None:
        return None, [f"{where}: there is no stage '{use}'.{near_names(str(use), plugins.stages)}"]
    inputs, problems = _read_inputs(where, config.get("inputs"), spec.ports)
    problems += [
        f"{where}: port '{port}' takes its input from '{source}', which is no stage of this pipeline."
        + near_names(source, known)
        for port, sources in inputs.items()
        for source in sources
        if source not in known
    ]
    stage = None
    try:
        stage = stage_from(spec, config)
        problems += [f"{where}: {spec.name}: {problem}" for problem in stage.problems_with(plugins)]
    except ConfigError as error:
        problems += [f"{where}: {problem}" for problem in error.problems]
    return _Draft(slot, spec, stage, inputs, bool(config.get("enabled", True))), problems


def _read_inputs(
    where: str, given: Any, ports: Sequence[Port]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Bind ``inputs`` (a name, a list of names or a map port -> names) to ports."""
    by_name = {port.name: port for port in ports}
    signature = ", ".join(map(str, ports)) or "no ports"
    problems: list[str] = []
    bound: dict[str, tuple[str, ...]] = {}
    if given is None:
        pass
    elif isinstance(given, str):
        if ports:
            bound[ports[0].name] = (given,)
        else:
            problems.append(f"{where}: inputs is '{given}', but this stage takes none; remove inputs")
    elif hasattr(given, "items"):
        for name, sources in given.items():
            if name not in by_name:
                problems.append(f"{where}: there is no port '{name}'.{near_names(str(name), by_name)}")
            else:
                bound[str(name)] = (sources,) if isinstance(sources, str) else tuple(sources or ())
    elif ports and ports[0].variadic:
        bound[ports[0].name] = tuple(map(str, given))
    else:
        names = tuple(map(str, given))
        if len(names) > len(ports):
            problems.append(f"{where}: inputs has {len(names)} names, but the ports are: {signature}")
        bound |= {port.name: (name,) for port, name in zip(ports, names, strict=False)}
    for port in ports:
        sources = bound.get(port.name, ())
        if not sources and not port.optional and not problems:
            problems.append(f"{where}: port '{port.name}' is not connected; set inputs (ports: {signature})")
        if len(sources) > 1 and not port.variadic:
            problems.append(f"{where}: port '{port.name}' takes one input, not {len(sources)}: {sources}")
    return {port.name: bound[port.name] for port in ports if bound.get(port.name)}, problems


def _missing_needs(drafts: Mapping[str, _Draft]) -> list[str]:
    return [
        f"stages.{draft.id}: {missing}"
        for draft in drafts.values()
        if draft.enabled
        for missing in missing_needs(draft.spec.cls)
    ]


def _cycles(drafts: Mapping[str, _Draft]) -> list[str]:
    try:
        graphlib.TopologicalSorter(_predecessors(drafts)).prepare()
    except graphlib.CycleError as error:
        return [f"the stages form a cycle: {' -> '.join(error.args[1])}; a stage can't feed itself"]
    return []


def _predecessors(drafts: Mapping[str, _Draft]) -> dict[str, list[str]]:
    return {id_: [s for s in draft.sources if s in drafts] for id_, draft in drafts.items()}


def _bad_bypasses(drafts: Mapping[str, _Draft]) -> list[str]:
    problems = []
    for draft in drafts.values():
        if draft.enabled:
            continue
        needed_by = [other.id for other in drafts.values() if draft.id in other.sources]
        if needed_by and _stand_in(draft, drafts) is None:
            problems.append(
                f"stages.{draft.id}: can't be disabled, since it has no single input of the type that it "
                f"yields ({draft.spec.produces.__name__}) to stand in for it; take it out with "
                f"'~stages.{draft.id}' and from the inputs of {', '.join(needed_by)}"
            )
    return problems


def _stand_in(draft: _Draft, drafts: Mapping[str, _Draft]) -> str | None:
    """Give the slot that replaces a disabled node, or ``None``."""
    if len(draft.sources) != 1 or draft.sources[0] not in drafts:
        return None
    source = drafts[draft.sources[0]]
    found = source.id if source.enabled else _stand_in(source, drafts)
    return found if found and issubclass(drafts[found].spec.produces, draft.spec.produces) else None


def _bypassed(drafts: Mapping[str, _Draft]) -> dict[str, str | None]:
    return {draft.id: _stand_in(draft, drafts) for draft in drafts.values() if not draft.enabled}


def _type_mismatches(drafts: Mapping[str, _Draft]) -> list[str]:
    problems = []
    for draft in _without_disabled(drafts).values():
        for port in draft.spec.ports:
            for source in draft.inputs.get(port.name, ()):
                if source not in drafts:
                    continue
                product = drafts[source].spec.produces
                if not port.takes(product):
                    takes = " or ".join(t.__name__ for t in port.types)
                    problems.append(
                        f"stages.{draft.id}: port '{port.name}' takes {takes}, but '{source}' "
                        f"({drafts[source].spec.name}) yields {product.__name__}"
                    )
    return problems


def _without_disabled(drafts: Mapping[str, _Draft]) -> dict[str, _Draft]:
    stand_ins = _bypassed(drafts)

    def rewired(sources: tuple[str, ...]) -> tuple[str, ...]:
        replaced = (stand_ins.get(source, source) for source in sources)
        return tuple(dict.fromkeys(source for source in replaced if source is not None))

    return {
        draft.id: replace(draft, inputs={port: rewired(sources) for port, sources in draft.inputs.items()})
        for draft in drafts.values()
        if draft.enabled
    }


def _in_order(drafts: Mapping[str, _Draft]) -> dict[str, _Draft]:
    """Sort topologically, keeping the pipeline's own order where it is free."""
    sorter = graphlib.TopologicalSorter(_predecessors(drafts))
    sorter.prepare()
    rank = {id_: index for index, id_ in enumerate(drafts)}
    ordered: dict[str, _Draft] = {}
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
        first = ready.pop(0)
        ordered[first] = drafts[first]
        sorter.done(first)
    return ordered
