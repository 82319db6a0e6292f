"""The stage pruner/channels: fields, targets and bounds, what it says and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of
from torch import nn

from hydrapress.artifacts import LayerRatios, TorchModel
from hydrapress.context import Context
from hydrapress.errors import ConfigError, StageError
from hydrapress.modeling import count_macs, count_parameters
from hydrapress.plugins import installed_plugins
from hydrapress.stage import ports_of, stage_name
from hydrapress.task import Splits
from hydrapress_pruners.channels.criteria import Criterion
from hydrapress_pruners.stages import Channels, ChannelScope, Target
from hydrapress_zoo.digits import digits


def model() -> TorchModel:
    """Make a net for 8x8 digits, two convolutions and a hidden layer wide."""
    torch.manual_seed(0)
    return model_of(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        ).eval()
    )


def prune(tmp_path: Path, **fields: Any) -> tuple[TorchModel, RecordingServices]:
    services = RecordingServices()
    context = context_of(tmp_path, services=services)
    ratios = fields.pop("layer_ratios", None)
    return Channels(**fields).run(model(), ratios, context=context), services


def widths(services: RecordingServices) -> dict[str, list[float]]:
    names = dict.fromkeys(name for name, _, _ in services.logged if name.startswith("width/"))
    return {name.removeprefix("width/"): services.values(name) for name in names}


def test_name_ports_and_defaults() -> None:
    assert stage_name(Channels) == "pruner/channels"
    assert [str(port) for port in ports_of(Channels)] == ["model: TorchModel", "layer_ratios: LayerRatios?"]
    assert (Channels().target, Channels().factor, Channels().criterion) == (Target.MACS, 2.0, Criterion.L2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"factor": 1.0}, "'factor' is 1.*must satisfy"),
        ({"max_removed": 0.0}, "'max_removed' is 0.*must satisfy"),
        ({"ratios": {"0": 1.0}}, r"must satisfy 0 <= ratios\[0\] < 1"),
        ({"round_to": 0}, "'round_to' is 0"),
        ({"target": Target.LATENCY, "scope": ChannelScope.UNIFORM}, "'scope' is UNIFORM, but target=LATENCY"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Channels(**fields)


def test_an_unknown_backend_is_found_before_anything_runs() -> None:
    plugins = installed_plugins()
    assert Channels(backend="onnx-cpu").problems_with(plugins) == []
    (problem,) = Channels(target=Target.LATENCY, backend="onnxruntime-cp").problems_with(plugins)
    assert "no such backend. Did you mean 'onnxruntime-cpu'" in problem
    assert Channels(target=Target.LATENCY).problems_with(plugins) == []


def test_only_measured_time_depends_on_the_machine() -> None:
    assert Channels().circumstances() == {}
    assert {"hardware", "torch"} <= set(Channels(target=Target.LATENCY).circumstances())


@pytest.mark.parametrize("target", [Target.MACS, Target.PARAMETERS])
@pytest.mark.parametrize("scope", ChannelScope)
def test_the_factor_is_reached_and_widths_are_multiples(
    tmp_path: Path, target: Target, scope: ChannelScope
) -> None:
    small, services = prune(tmp_path, target=target, factor=1.8, scope=scope, round_to=4)
    sample = (torch.zeros(1, 1, 8, 8),)
    macs = count_macs(model().module, sample) / count_macs(small.module, sample)
    params = count_parameters(model().module) / count_parameters(small.module)
    assert services.values("reduction/macs") == [macs]
    assert services.values("reduction/params") == [params]
    assert 1.8 <= (macs if target is Target.MACS else params) < 2.6
    reached = widths(services)
    assert {name: before for name, (before, _) in reached.items()} == {"0": 16, "3": 24, "8": 32}
    assert all(after % 4 == 0 for _, after in reached.values())
    assert [module.weight.shape[0] for module in (small.module[0], small.module[3])] == [  # type: ignore[index]
        reached["0"][1],
        reached["3"][1],
    ]
    assert [invariant.name for invariant in small.invariants] == ["widths"]


def test_ratios_skip_and_the_port(tmp_path: Path) -> None:
    given = LayerRatios({"0": 0.75, "3": 0.5})
    small, services = prune(
        tmp_path, layer_ratios=given, ratios={"0": 0.5}, skip=["8"], factor=1.2, round_to=4
    )
    assert widths(services) == {"0": [16, 8], "3": [24, 12]}
    assert small.module[8].out_features == 32  # type: ignore[index]


@pytest.mark.parametrize("criterion", Criterion)
def test_every_criterion_works_and_is_deterministic(tmp_path: Path, criterion: Criterion) -> None:
    fields = {"criterion": criterion, "skip": ["8"], "batches": 1, "round_to": 4}
    first, second = (prune(tmp_path, **fields)[0].module.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_input_stays_and_the_least_important_go(tmp_path: Path) -> None:
    given = model()
    with torch.no_grad():
        for name, parameter in given.module.named_parameters():
            if name.startswith("3."):
                parameter[4:] *= 0.01
    before = {name: value.clone() for name, value in given.module.state_dict().items()}
    small = Channels(
        ratios={"3": 20 / 24}, skip=["0", "8"], factor=1.5, round_to=4, criterion=Criterion.L1
    ).run(given, context=context_of(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in given.module.state_dict().items())
    assert torch.equal(small.module[3].weight, given.module[3].weight[:4])  # type: ignore[index]


def test_a_factor_out_of_reach_names_the_largest(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"stage 'stage': 50 times fewer MACs can't be reached, at most [\d.]+"
    ):
        prune(tmp_path, factor=50.0)


def test_patterns_are_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"stage 'stage': '33' matches no dense or convolution layer"):
        prune(tmp_path, skip=["33"])
    with pytest.raises(StageError, match=r"'10' matches no layer whose channels can be removed"):
        prune(tmp_path, ratios={"10": 0.5})


def test_an_empty_calibration_split_is_refused(tmp_path: Path) -> None:
    def empty() -> Splits:
        splits = digits()
        return replace(splits, calibration=torch.utils.data.Subset(splits.calibration, []))

    context = context_of(tmp_path, splits=empty)
    with pytest.raises(StageError, match="stage 'stage': the calibration split is empty; give it samples"):
        Channels().run(model(), context=context)


def test_latency_goes_to_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydrapress_pruners.channels import latency

    asked: list[latency.LatencyTarget] = []

    def choose(
        model: TorchModel, groups: Any, scores: Any, target: Any, *, context: Context, where: str
    ) -> Any:
        asked.append(target)
        return {group.name: np.arange(group.size) < 8 for group in groups}

    monkeypatch.setattr(latency, "choose_units_for_latency", choose)
    _, services = prune(
        tmp_path,
        target=Target.LATENCY,
        factor=1.5,
        backend="litert-cpu",
        threads=2,
        tried_widths=4,
        max_removed=0.8,
    )
    (target,) = asked
    assert (target.backend, target.factor, target.threads, target.tried_widths) == ("litert-cpu", 1.5, 2, 4)
    assert (target.bounds.round_to, target.bounds.max_removed) == (8, 0.8)
    assert widths(services) == {"0": [16, 8], "3": [24, 8], "8": [32, 8]}


def test_a_ratio_that_rounding_undoes_is_told(tmp_path: Path) -> None:
    net = model_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
    services = RecordingServices()
    pruned = Channels(ratios={"1": 0.9}).run(net, context=context_of(tmp_path, services=services))
    assert pruned.module[1].weight.shape == (8, 64)  # type: ignore[index]
    assert services.warnings == ["ratios: '1' stay whole, as round_to is 8; lower it to narrow them"]
