"""Benchmark definitions: the shipped ones are sound and run, wrong ones are told with file, line and key."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

from hydrapress.compose import compose_config
from hydrapress.config import task_from
from hydrapress.errors import ConfigError, RegistryError
from hydrapress.job import read_config
from hydrapress.plugins import Package, Plugins, installed_plugins
from hydrapress_registry.catalogue import (
    Found,
    definition_of,
    definitions,
    find_definition,
    read_definition,
    sound_definitions,
)
from hydrapress_registry.checking import problems_in
from hydrapress_registry.definition import Definition, Division, RatioKind
from hydrapress_registry.overview import Overview
from hydrapress_registry.tables import headline

RUNNABLE = {
    "prune-lenet300",
    "prune-lenet5",
    "int8-lenet5",
    "int8-resnet20-fashion",
    "int8-lite0-fashion",
    "int8-minilm-trec6",
    "har-watch-1dcnn",
    "mlperf-tiny-resnet8",
    "lottery-lenet300",
    "prune-lenet300-fashion",
    "prune-lenet5-fashion",
    "snip-lenet300",
    "snip-lenet5",
    "nm-lenet5",
    "struct-lenet",
    "channels-resnet20-fashion",
    "channels-lite0-fashion",
    "latency-resnet20-fashion",
    "prune-minilm-trec6",
}
TO_COME = {
    "lowrank-lenet300": "factorizer/svd",
    "deep-compression-lenet300": "encoder/pack",
    "deep-compression-lenet5": "encoder/pack",
    "kd-mnist": "distiller/logits",
    "distil-minilm-trec6": "distiller/logits",
}
SOUND = f"""\
# @package _global_
# Theirs.
#   hydrapress benchmark=theirs
defaults:
  - override /data: digits
  - override /model: lenet_300_100
  - override /pipeline: int8
stages:
  train: {{epochs: 1}}
  bench: {{backends: [onnxruntime-cpu]}}
benchmark:
  id: theirs
  title: Theirs
  question: Does it work?
  model: lenet_300_100
  data: {{name: digits, digest: {"a" * 64}}}
  metric: accuracy
  gate: {{max_loss: 0.01, least_baseline: 0.5}}
  protocol: {{seeds: [0, 1], backends: [onnxruntime-cpu]}}
  divisions: {{closed: as it stands}}
  baseline: onnx
  best: int8
  published:
    - {{method: m, paper: p, table: t, network: n, data: d, ratio: 2, kind: file}}
"""


def write(folder: Path, text: str = SOUND, name: str = "theirs") -> Path:
    path = folder / "benchmark" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def shipped() -> dict[str, Found]:
    return {id_: found for id_, found in definitions().items() if found.package == "hydrapress"}


# --- what is shipped ----------------------------------------------------------------------------


def test_every_shipped_definition_is_sound(shipped: dict[str, Found]) -> None:
    assert set(shipped) >= RUNNABLE | set(TO_COME)
    assert {id_: found.problem for id_, found in shipped.items() if found.problem} == {}


def test_every_shipped_definition_composes_and_its_graph_is_sound(shipped: dict[str, Found]) -> None:
    assert [line for found in shipped.values() for line in problems_in(found.path)] == []


@pytest.mark.parametrize(("id_", "stage"), TO_COME.items())
def test_one_to_come_names_the_stage_that_it_needs(id_: str, stage: str) -> None:
    definition = definition_of(id_)
    assert stage in definition.needs
    assert definition.published or "No paper" in definition.question


@pytest.mark.parametrize("id_", sorted(RUNNABLE))
def test_the_config_of_a_runnable_one_follows_its_own_protocol(id_: str) -> None:
    definition = definition_of(id_)
    config = compose_config([f"benchmark={id_}"])
    assert config.benchmark.id == id_
    bench = config.stages.bench
    assert tuple(bench.backends) == definition.protocol.backends
    assert tuple(bench.threads) == definition.protocol.threads
    assert tuple(bench.batch_sizes) == definition.protocol.batch_sizes
    assert bench.starts >= definition.protocol.starts
    assert {definition.baseline, definition.best} <= set(bench.inputs)


@pytest.mark.parametrize(
    ("id_", "experiment"),
    [
        ("int8-resnet20-fashion", "resnet20_fashion"),
        ("int8-lite0-fashion", "lite0_fashion"),
        ("int8-minilm-trec6", "minilm_trec6"),
    ],
)
def test_a_benchmark_shares_its_training_with_the_experiment(id_: str, experiment: str) -> None:
    """So that what one has trained, the other takes from the store."""
    ours, theirs = compose_config([f"benchmark={id_}"]), compose_config([f"experiment={experiment}"])
    for part in ("stages.train", "data", "model", "task"):
        assert _select(ours, part) == _select(theirs, part), part


def _select(config: object, part: str) -> object:
    from omegaconf import DictConfig, OmegaConf

    assert isinstance(config, DictConfig)
    return OmegaConf.to_container(OmegaConf.select(config, part), resolve=True)


@pytest.mark.parametrize(
    "ids",
    [
        (
            "prune-lenet300",
            "prune-lenet5",
            "int8-lenet5",
            *(id_ for id_ in TO_COME if "lenet" in id_),
            "kd-mnist",
        ),
        ("int8-resnet20-fashion", "channels-resnet20-fashion"),
        ("mlperf-tiny-resnet8",),
        ("int8-lite0-fashion",),
        ("int8-minilm-trec6", "distil-minilm-trec6", "prune-minilm-trec6"),
        ("har-watch-1dcnn",),
    ],
    ids=lambda ids: ids[0],
)
def test_the_digest_is_that_of_the_data(ids: tuple[str, ...]) -> None:
    config = read_config(compose_config([f"benchmark={ids[0]}"]))
    try:
        splits = task_from(config, installed_plugins()).splits
    except ConfigError as error:
        pytest.skip(f"the data is not here: {error}")
    for id_ in ids:
        definition = definition_of(id_)
        assert (splits.name, splits.digest) == (definition.data.name, definition.data.digest), id_


def test_rows_of_papers_say_what_they_count_and_are_context(shipped: dict[str, Found]) -> None:
    rows = [(id_, row) for id_ in shipped for row in definition_of(id_).published]
    assert len(rows) > 80
    for id_, row in rows:
        assert (row.ratio is None) == (row.kind is None), (id_, row)
        # none was measured on the data that ships, so none may be ranked with ours
        assert not row.comparable, (id_, row)
        assert "memory" not in f"{row.note} {row.table} {row.paper}", (id_, row)


def test_well_known_rows_are_as_printed() -> None:
    first = definition_of("deep-compression-lenet300").published[2]
    assert (first.error_before, first.error, first.ratio, first.kind) == (1.64, 1.58, 40, RatioKind.FORMAT)
    miracle = definition_of("deep-compression-lenet5").published[-1]
    assert (miracle.ratio, miracle.kind, miracle.size_bytes) == (1110, RatioKind.FILE, 1520)
    tiny = definition_of("mlperf-tiny-resnet8").published[0]
    assert tiny.size_bytes is not None
    assert tiny.ratio == pytest.approx(318_144 / tiny.size_bytes, abs=0.005)
    for row in definition_of("prune-lenet300").published:
        if row.ratio and row.weights_kept:
            assert row.ratio * row.weights_kept == pytest.approx(1, rel=0.05), row


# --- finding them -------------------------------------------------------------------------------


def test_an_unknown_id_gives_near_ones() -> None:
    with pytest.raises(RegistryError, match=r"no benchmark 'int8-lenet'\. Did you mean 'int8-lenet5'"):
        find_definition("int8-lenet")


def test_the_users_own_folder_is_found_and_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    monkeypatch.setenv("HYDRAPRESS_BENCHMARKS", os.pathsep.join([str(tmp_path), str(tmp_path / "none")]))
    found = definitions()["theirs"]
    assert found.package == str(tmp_path)
    assert found.definition is not None
    assert found.definition.protocol.seeds == (0, 1)
    assert compose_config(["benchmark=theirs"]).stages.train.epochs == 1
    assert "none', which has no folder 'benchmark'" in capsys.readouterr().err


def test_a_plugins_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        @staticmethod
        def hydrapress_conf() -> str:
            return "pkg://their_benchmarks.conf"

    class Gone:
        @staticmethod
        def hydrapress_conf() -> str:
            return "pkg://not_there_at_all.conf"

    from hydrapress.hookspecs import hookimpl

    package = tmp_path / "their_benchmarks"
    (package / "conf").mkdir(parents=True)
    (package / "__init__.py").touch()
    write(package / "conf")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = Plugins()
    for name, plugin in (("theirs", Theirs), ("gone", Gone)):
        plugin.hydrapress_conf = staticmethod(hookimpl(plugin.hydrapress_conf))  # type: ignore[method-assign]
        plugins.register(plugin, Package(name, name, f"{name}-benchmarks", "1"))
    monkeypatch.setattr("hydrapress.plugins.installed_plugins", lambda: plugins)
    told: list[str] = []
    found = definitions(on_problem=told.append)
    assert {id_: each.package for id_, each in found.items()} == {"theirs": "theirs-benchmarks"}
    assert len(told) == 1
    assert "'pkg://not_there_at_all.conf' of plugin 'gone-benchmarks:gone'" in told[0]


def test_a_broken_file_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "benchmark: {id: broken, ]", name="broken")
    write(tmp_path)
    monkeypatch.setenv("HYDRAPRESS_BENCHMARKS", str(tmp_path))
    found = definitions()
    assert found["broken"].definition is None
    assert "broken.yaml, line 1: no valid YAML" in (found["broken"].problem or "")
    assert found["theirs"].problem is None
    assert "broken" not in sound_definitions()
    with pytest.raises(RegistryError, match="no valid YAML"):
        find_definition("broken")


def test_two_files_of_one_id_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / name) for name in "ab"]
    monkeypatch.setenv("HYDRAPRESS_BENCHMARKS", os.pathsep.join(str(tmp_path / name) for name in "ab"))
    problem = definitions()["theirs"].problem or ""
    assert all(str(path) in problem for path in paths)
    assert "rename all but one" in problem


def test_texts_may_be_mended_but_rules_and_config_make_another_digest(tmp_path: Path) -> None:
    def digest(old: str, new: str) -> str:
        return read_definition(write(tmp_path, SOUND.replace(old, new)))[1]

    first = digest("", "")
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert digest("Does it work?", "Does it?") == first
    assert digest("ratio: 2", "ratio: 3") == first
    assert digest("max_loss: 0.01", "max_loss: 0.02") != first
    assert digest("epochs: 1", "epochs: 2") != first


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("max_loss", "max_los", 18, r"benchmark\.gate\.max_los is not known\. Did you mean 'max_loss'\?"),
        ("title: Theirs", "titel: Theirs", 13, r"benchmark\.titel is not known\. Did you mean 'title'"),
        ("title: Theirs", "title: ' '", 13, r"benchmark\.title is empty"),
        ("id: theirs", "id: other", 12, r"is 'other', but the file is 'theirs\.yaml'"),
        ("a" * 64, "abc", 16, r"benchmark\.data\.digest is 'abc'; it must be a sha256"),
        ("name: digits", "name: ''", 16, r"benchmark\.data\.name is empty"),
        ("max_loss: 0.01", "max_loss: -1", 18, r"benchmark\.gate\.max_loss is -1\.0; it must be 0 or more"),
        ("max_loss: 0.01", "max_loss: .nan", 18, r"benchmark\.gate\.max_loss"),
        ("seeds: [0, 1]", "seeds: [1, 1]", 19, r"protocol\.seeds is \[1, 1\]; name each once"),
        ("seeds: [0, 1]", "seeds: []", 19, r"protocol\.seeds is empty"),
        ("seeds: [0, 1]", "seeds: [-1]", 19, r"protocol\.seeds\[0\] is -1; it must be 0 or more"),
        ("seeds: [0, 1]", "seeds: [0], starts: 1", 19, r"protocol\.starts is 1; intervals need at least 2"),
        ("seeds: [0, 1]", "seeds: [0], threads: [0]", 19, r"protocol\.threads\[0\] is 0; it must be 1"),
        ("closed:", "open:", 20, r"benchmark\.divisions lacks 'closed'"),
        ("closed:", "shut:", 20, r"benchmark\.divisions\.shut"),
        ("  best: int8\n", "", 12, r"benchmark\.best must be given"),
        ("best: int8", "best: onnx", 22, r"benchmark\.best is the baseline 'onnx'"),
        ("best: int8", "best: int8\n  needs: [snip]", 23, r"needs\[0\] is 'snip'; name a stage"),
        ("best: int8", "best: int8\n  needs: [a/b, a/b]", 23, r"needs is \['a/b', 'a/b'\]; name each once"),
        (", kind: file", "", 24, r"published\[0\]\.ratio is 2, but no 'kind'"),
        ("ratio: 2, ", "", 24, r"published\[0\]\.kind is 'file', but there is no 'ratio'"),
        ("kind: file", "kind: fil", 24, r"published\[0\]\.kind is 'fil'"),
        ("ratio: 2", "ratio: 0", 24, r"published\[0\]\.ratio is 0; it must be more than 0"),
        ("ratio: 2", "ratio: 2, error: 101", 24, r"published\[0\]\.error is 101; it must be 0 to 100"),
        ("ratio: 2", "ratio: 2, weights_kept: 1.5", 24, r"weights_kept is 1\.5; it must be 0 to 1"),
        ("paper: p", "paper: ' '", 24, r"published\[0\]\.paper is empty; say where the row comes from"),
    ],
)
def test_a_problem_is_told_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in SOUND
    path = write(tmp_path, SOUND.replace(old, new))
    with pytest.raises(RegistryError, match=rf"theirs\.yaml, line {line}: .*{message}"):
        read_definition(path)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = (
        SOUND.replace("seeds: [0, 1]", "seeds: []").replace("ratio: 2, ", "").replace("id: theirs", "id: X")
    )
    assert len(problems_in(write(tmp_path, text))) == 3


def test_an_id_of_odd_letters_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND.replace("id: theirs", "id: Their_s"), name="Their_s")
    with pytest.raises(RegistryError, match="is 'Their_s'; use lower-case letters and digits"):
        read_definition(path)


def test_a_config_that_is_not_what_the_definition_says_is_told(tmp_path: Path) -> None:
    assert problems_in(write(tmp_path)) == []
    for old, new, message in [
        ("best: int8", "best: int4", "benchmark.best is 'int4', which is no stage of the pipeline: train, "),
        ("  model: lenet_300_100", "  model: lenet5", "is 'lenet5', but the config chooses 'lenet_300_100'"),
        ("name: digits", "name: mnist", "benchmark.data.name is 'mnist', but the config chooses 'digits'"),
        ("/pipeline: int8", "/pipeline: int7", "int7"),
        ("epochs: 1", "epochs: 0", "epochs"),
        ("best: int8", "best: int8\n  needs: [pruner/none]", "it has a pipeline, but needs pruner/none"),
    ]:
        assert old in SOUND
        problems = problems_in(write(tmp_path, SOUND.replace(old, new)))
        assert len(problems) == 1, problems
        assert message in problems[0]


def test_a_file_that_hydra_would_not_find_is_told(tmp_path: Path) -> None:
    path = write(tmp_path).rename(tmp_path / "theirs.yaml")
    assert "put it into a folder named 'benchmark'" in problems_in(path)[0]
    assert "this is neither" in problems_in(tmp_path / "theirs.txt")[0]
    assert "can't be read" in problems_in(tmp_path / "benchmark" / "gone.yaml")[0]
    assert "can't be read" in problems_in(tmp_path / "gone.json")[0]


def test_nothing_in_a_file_is_instantiated(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    text = textwrap.dedent(
        f"""\
        benchmark: !!python/object/apply:pathlib.Path.touch
          - !!python/object/apply:pathlib.Path ['{planted}']
        """
    )
    assert problems_in(write(tmp_path, text)) != []
    assert problems_in(write(tmp_path, SOUND.replace("title: Theirs", "title: Theirs\n  _target_: os.abort")))
    assert not planted.exists()


# --- words about them ---------------------------------------------------------------------------


def test_how_to_run_one_follows_from_its_seeds(shipped: dict[str, Found]) -> None:
    commands = Overview(found=shipped["int8-lenet5"]).commands
    assert commands[0] == "hydrapress -m benchmark=int8-lenet5 seed=0,1,2,3,4"
    assert Overview(found=shipped["kd-mnist"], missing=("distiller/logits",)).commands == ()


def test_a_headline_says_quality_size_speed_and_a_broken_gate() -> None:
    from hydrapress.scenario import Scenario
    from hydrapress_registry.entry import Entry, Estimate, Origin

    def entry(passed: bool, **values: float) -> Entry:
        return Entry(
            id="r/int8@onnxruntime-cpu",
            origin=Origin.RECORD,
            benchmark="theirs",
            title="t",
            model="int8",
            backend="onnxruntime-cpu",
            threads=1,
            batch_size=1,
            scenario=Scenario.SINGLE_STREAM,
            format="onnx",
            metrics={name: Estimate(value) for name, value in values.items()},
            metric="accuracy",
            division=Division.CLOSED,
            passed=passed,
        )

    def said(passed: bool = True, **values: float) -> str:
        return headline(entry(passed, **values))

    assert said(accuracy=0.98, size_ratio=3.8, speedup=1.7) == (
        "accuracy 0.9800, 3.80x smaller, 1.70x faster on onnxruntime-cpu"
    )
    assert said(passed=False, accuracy=0.5) == "accuracy 0.5000, on onnxruntime-cpu, gate broken"
    pruned = said(accuracy=0.98, size_ratio=1.0, speedup=0.9, params=100.0, nonzero_params=8.0)
    assert pruned == "accuracy 0.9800, 12.5x fewer weights, 0.90x as fast on onnxruntime-cpu"


def test_a_definition_without_optional_parts_is_whole(tmp_path: Path) -> None:
    text = SOUND.partition("  published:")[0].replace("  baseline: onnx\n  best: int8\n", "  needs: [a/b]\n")
    definition, _ = read_definition(write(tmp_path, text))
    assert isinstance(definition, Definition)
    assert definition.baseline is None
    assert definition.published == ()
