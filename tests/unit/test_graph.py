"""Graph: all problems at once, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from sample_stages import sample_plugins

from hydrapress.errors import GraphError
from hydrapress.graph import Graph

Slots = dict[str, dict[str, Any]]


def slots(**changes: dict[str, Any] | None) -> Slots:
    """Give a sound pipeline with some slots changed, or taken out by None."""
    sound: Slots = {
        "train": {"use": "trainer/train"},
        "prune": {"use": "pruner/prune", "inputs": "train"},
        "onnx": {"use": "exporter/onnx", "inputs": "prune"},
        "bench": {"use": "evaluator/bench", "inputs": ["train", "prune", "onnx"]},
    }
    for name, change in changes.items():
        if change is None:
            del sound[name]
        else:
            sound[name] = sound.get(name, {}) | change
    return sound


def graph(**changes: dict[str, Any] | None) -> Graph:
    return Graph.from_config(slots(**changes), sample_plugins())


def problems(**changes: dict[str, Any] | None) -> list[str]:
    with pytest.raises(GraphError) as caught:
        graph(**changes)
    return list(caught.value.problems)


def test_a_sound_pipeline_reads_as_its_lines() -> None:
    assert str(graph()).splitlines() == [
        "train: trainer/train() -> TorchModel",
        "prune: pruner/prune(train) -> TorchModel",
        "onnx: exporter/onnx(prune) -> OnnxModel",
        "bench: evaluator/bench(train, prune, onnx) -> Report",
    ]


def test_nodes_come_after_all_that_feed_them_however_they_are_written() -> None:
    reversed_slots = dict(reversed(slots().items()))
    ordered = list(Graph.from_config(reversed_slots, sample_plugins()).nodes)
    assert ordered.index("train") < ordered.index("prune") < ordered.index("onnx") < ordered.index("bench")


def test_a_join_is_a_map_of_ports() -> None:
    joined = graph(distil={"use": "distiller/distil", "inputs": {"student": "prune", "teacher": "train"}})
    assert joined.nodes["distil"].inputs == {"student": ("prune",), "teacher": ("train",)}
    assert "distiller/distil(student=prune, teacher=train)" in str(joined)


def test_an_optional_port_may_stay_open() -> None:
    assert graph().nodes["prune"].inputs == {"model": ("train",)}


def test_no_stage_at_all() -> None:
    with pytest.raises(GraphError, match="the pipeline has no stage"):
        Graph.from_config({}, sample_plugins())


def test_a_slot_without_a_stage() -> None:
    assert problems(extra={"inputs": "train"}) == [
        "stages.extra: no stage is chosen; add stage@stages.extra=<kind>/<name>"
    ]


def test_an_unknown_stage_gets_near_names() -> None:
    (found,) = problems(prune={"use": "pruner/prun"})
    assert found.startswith("stages.prune: there is no stage 'pruner/prun'. Did you mean 'pruner/prune' or ")


def test_an_unknown_port_gets_near_names() -> None:
    found = problems(prune={"inputs": {"modle": "train"}})
    assert "stages.prune: there is no port 'modle'. Did you mean 'model'?" in found


def test_a_missing_port() -> None:
    assert problems(onnx={"inputs": None}) == [
        "stages.onnx: port 'model' is not connected; set inputs (ports: model: TorchModel)"
    ]


def test_a_port_that_takes_one_is_given_two() -> None:
    found = problems(prune={"inputs": {"model": ["train", "train2"]}}, train2={"use": "trainer/train"})
    assert found == ["stages.prune: port 'model' takes one input, not 2: ('train', 'train2')"]


def test_a_source_takes_no_input() -> None:
    found = problems(train={"inputs": "prune"})
    assert found[0] == "stages.train: inputs is 'prune', but this stage takes none; remove inputs"


def test_more_names_than_ports() -> None:
    found = problems(onnx={"inputs": ["train", "prune"]})
    assert found == ["stages.onnx: inputs has 2 names, but the ports are: model: TorchModel"]


def test_a_type_mismatch() -> None:
    assert problems(again={"use": "exporter/onnx", "inputs": "onnx"}) == [
        "stages.again: port 'model' takes TorchModel, but 'onnx' (exporter/onnx) yields OnnxModel"
    ]


def test_a_cycle_is_printed_in_order() -> None:
    found = problems(prune={"inputs": "onnx"})
    assert found == ["the stages form a cycle: prune -> onnx -> prune; a stage can't feed itself"]


def test_a_dangling_input_gets_near_names() -> None:
    assert problems(prune={"inputs": "trian"}) == [
        "stages.prune: port 'model' takes its input from 'trian', which is no stage of this pipeline. "
        "Did you mean 'train'?"
    ]


def test_a_field_out_of_range() -> None:
    assert problems(prune={"sparsity": 1.5}) == [
        "stages.prune: pruner/prune: 'sparsity' is 1.5; it must satisfy 0 <= sparsity < 1 "
        "(fraction of weights set to zero)"
    ]


def test_a_rule_across_fields() -> None:
    assert problems(prune={"begin": 9}) == ["stages.prune: pruner/prune: 'begin' must be before 'end'"]


def test_a_library_that_is_not_installed() -> None:
    assert problems(prune={"use": "pruner/needy"}) == [
        "stages.prune: pruner/needy needs the package 'no_such_library', which is not installed: "
        "pip install 'sample[needy]'"
    ]


def test_everything_is_reported_together() -> None:
    found = problems(
        prune={"sparsity": 1.5, "inputs": "trian"},
        onnx={"use": "exporter/onx"},
        again={"use": "exporter/onnx", "inputs": "bench"},
        bench={"inputs": None},
    )
    text = "\n".join(found)
    assert len(found) == 5
    for part in ("sparsity", "'trian'", "'exporter/onx'", "yields Report", "'models' is not connected"):
        assert part in text


def test_a_disabled_stage_is_bypassed_by_its_input() -> None:
    without = graph(prune={"enabled": False})
    assert "prune" not in without.nodes
    assert without.nodes["onnx"].inputs == {"model": ("train",)}
    assert without.nodes["bench"].inputs == {"models": ("train", "onnx")}
    assert without.bypassed == {"prune": "train"}


def test_a_disabled_stage_that_changes_the_type_is_an_error() -> None:
    (found,) = problems(onnx={"enabled": False})
    assert found.startswith("stages.onnx: can't be disabled, since it has no single input of the type")
    assert "'~stages.onnx'" in found
    assert "bench" in found


def test_a_disabled_stage_that_nothing_needs_is_left_out() -> None:
    assert list(graph(bench={"enabled": False}).nodes) == ["train", "prune", "onnx"]


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sample_stages import sample_plugins\n"
        "from hydrapress.graph import Graph\n"
        "Graph.from_config({'train': {'use': 'trainer/train'}}, sample_plugins())\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'mlflow')))"
    )
    folder = __file__.rpartition("/")[0]
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 0


def test_a_thousand_stages_are_checked_to_the_end() -> None:
    many: Slots = {"s0": {"use": "trainer/train"}}
    many |= {f"s{i}": {"use": "pruner/prune", "inputs": f"s{i - 1}"} for i in range(1, 1000)}
    started = time.perf_counter()
    assert len(Graph.from_config(many, sample_plugins()).nodes) == 1000
    print(f"1,000 stages: {time.perf_counter() - started:.2f} s")
