"""Latency targets on a runtime whose times are decreed, so that no clock decides a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_training import RecordingServices, context_of, model_of
from torch import nn

from hydrapress.artifacts import Model, OnnxModel, TorchModel
from hydrapress.backend import Backend, Session
from hydrapress.context import Context
from hydrapress.errors import BackendError, PluginError, StageError
from hydrapress_pruners.channels import trials
from hydrapress_pruners.channels.bounds import Bounds
from hydrapress_pruners.channels.costs import Cost, CostModel, Term, cost_model
from hydrapress_pruners.channels.groups import ChannelGroup, find_groups
from hydrapress_pruners.channels.latency import LatencyTarget, _spread, choose_units_for_latency
from hydrapress_pruners.channels.latency_model import Curve, LatencyModel, cheapest_way, price
from hydrapress_pruners.channels.trials import Trials, interleaved_ratio

Times = Callable[[nn.Module], float]


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(48 * 64, 10),
    )  # fmt: skip


def in_blocks(module: nn.Module) -> float:
    """Give the milliseconds of a runtime that computes 16 channels at once, and something beside."""
    convs = [layer for layer in module if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr,attr-defined]
    return 0.1 + sum(ceil(conv.out_channels / 16) * ceil(conv.in_channels / 16) * 0.5 for conv in convs)


class Decreed(Backend):
    """Takes modules as they are; a call lasts as long as a function of the module says."""

    name = "decreed-cpu"
    formats = (TorchModel,)

    def __init__(self, times: Times = in_blocks, missing: str | None = None) -> None:
        self.times, self.missing = times, missing
        self.loaded: list[list[int]] = []

    def unavailable(self) -> str | None:
        return self.missing

    def version(self) -> str:
        return "1"

    def device(self) -> str:
        return "none"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        assert isinstance(model, TorchModel)
        assert not model.invariants
        layers = [layer for layer in model.module if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
        self.loaded.append([layer.out_channels for layer in layers])
        return DecreedSession(self.times(model.module))


class DecreedSession(Session):
    def __init__(self, ms: float) -> None:
        self.ms = ms

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        raise NotImplementedError

    def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
        assert inputs[0].shape == (1, 1, 8, 8)
        return partial(float, self.ms)


class Offering(RecordingServices):
    """Offers backends."""

    def __init__(self, *offered: Backend, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.offered = offered

    def backends(self) -> list[Any]:
        return list(self.offered)

    def convert(self, model: Any, target: Any, context: Context) -> Any:
        raise PluginError(f"no installed exporter turns a TorchModel into a {target.__name__}")


@pytest.fixture(autouse=True)
def decreed_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are what the calls say."""

    def ratio(baseline: Any, candidate: Any) -> tuple[float, float]:
        return baseline() / candidate(), baseline()

    monkeypatch.setattr(trials, "interleaved_ratio", ratio)


def chosen(
    scratch: Path, services: Offering, target: LatencyTarget, scores: dict[str, np.ndarray] | None = None
) -> dict[str, int]:
    model, groups = narrowable()
    kept = choose_units_for_latency(
        model,
        groups,
        scores or {group.name: np.arange(1.0, group.size + 1) for group in groups},
        target,
        context=context_of(scratch, services=services),
        where="stage 'prune'",
    )
    return {name: int(stays.sum()) for name, stays in kept.items()}


def narrowable() -> tuple[TorchModel, tuple[ChannelGroup, ...]]:
    model = model_of(net().eval())
    return model, find_groups(model, (torch.zeros(2, 1, 8, 8),))


TARGET = LatencyTarget("decreed-cpu", 2.0, bounds=Bounds(8))


def test_target_is_reached_at_widths_that_are_faster(tmp_path: Path) -> None:
    backend, services = Decreed(), Offering(Decreed())
    widths = chosen(tmp_path, services, TARGET)
    measured = services.values("latency/measured_speedup")
    (speedup,) = services.values("latency/speedup")
    assert 2.0 * 0.97 <= speedup in measured
    # 24 channels cost this runtime as much as 32
    assert all(width % 16 == 0 or width == 8 for width in widths.values())
    assert len(services.values("latency/predicted_speedup")) == len(measured)
    gains = {(name, step): value for name, value, step in services.logged if name.startswith("gain_ms/")}
    whole = backend.times(net())
    # the first layer needs half of its 2 blocks, the second half of its 6
    assert gains["gain_ms/0", 16] == pytest.approx(0.5 + 1.5)
    assert whole == pytest.approx(0.1 + 1.0 + 3.0)


def test_what_matters_stays(tmp_path: Path) -> None:
    scores = {"0": np.ones(32), "2": np.concatenate([np.full(16, 100.0), np.full(32, 1e-3)])}
    widths = chosen(tmp_path, Offering(Decreed()), TARGET, scores)
    assert widths == {"0": 32, "2": 16}


def test_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected_backend = Decreed()
    expected = chosen(tmp_path / "whole", Offering(expected_backend), TARGET)
    (tmp_path / "killed").mkdir()
    killed, resumed = Decreed(), Decreed()
    with pytest.raises(KeyboardInterrupt):
        chosen(tmp_path / "killed", Offering(killed, stop_after=4), TARGET)
    assert chosen(tmp_path / "killed", Offering(resumed), TARGET) == expected
    # the baseline alone is loaded twice
    assert len(killed.loaded) == 5
    assert killed.loaded[1:] + resumed.loaded[1:] == expected_backend.loaded[1:]
    done = Decreed()
    assert chosen(tmp_path / "killed", Offering(done), TARGET) == expected
    assert done.loaded == []


def test_tried_widths_are_round_and_reach_the_narrowest() -> None:
    assert _spread((64, 56, 48, 40, 32, 24, 16, 8), 64, 2) == [32, 8]
    assert _spread((20, 16, 8), 20, 1) == [8]
    assert _spread((20, 16, 8), 20, 5) == [16, 8]
    assert _spread((16,), 16, 2) == []
    # of a width that a ratio fixes there is one
    assert _spread((12,), 16, 2) == [12]


def test_damaged_note_is_measured_again(tmp_path: Path) -> None:
    expected = chosen(tmp_path, Offering(Decreed()), TARGET)
    notes = sorted((tmp_path / "latency").glob("*.json"))
    notes[0].write_text("[1.0")
    notes[1].write_text("null")
    again = Decreed()
    assert chosen(tmp_path, Offering(again), TARGET) == expected
    assert len(again.loaded) == 3


def test_wrong_predictions_are_corrected(tmp_path: Path) -> None:
    def unlike(module: nn.Module) -> float:
        """Be far slower than the sum of gains says once both layers are narrow."""
        widths = [layer.out_channels for layer in module if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
        alone = widths.count(32) + widths.count(48)
        return 1.0 + sum(widths) / 80 * (9.0 if alone else 12.0)

    services = Offering(Decreed(unlike))
    target = replace(TARGET, bounds=Bounds(1))
    chosen(tmp_path, services, target)
    assert len(services.values("latency/measured_speedup")) > 1
    (speedup,) = services.values("latency/speedup")
    assert 2.0 * 0.97 <= speedup <= 2.0 * 1.1


def test_out_of_reach_names_the_best_that_was_measured(tmp_path: Path) -> None:
    target = LatencyTarget("decreed-cpu", 50.0, bounds=Bounds(8, max_removed=0.5))
    with pytest.raises(StageError) as caught:
        chosen(tmp_path, Offering(Decreed()), target)
    text = str(caught.value)
    assert text.startswith(
        "stage 'prune': 50 times the speed on decreed-cpu can't be reached, at most 2.56 times: "
        "max_removed is 0.5; round_to is 8"
    )
    assert text.endswith("narrower widths than these are no faster there")


def test_nothing_is_faster(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="at most 1 times: round_to is 8"):
        chosen(tmp_path, Offering(Decreed(lambda module: 1.0)), TARGET)


def test_unknown_and_absent_backends_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no backend 'decreed-gpu'.*Did you mean 'decreed-cpu'"):
        chosen(tmp_path, Offering(Decreed()), replace(TARGET, backend="decreed-gpu"))
    with pytest.raises(BackendError, match="can't be used here: install it"):
        chosen(tmp_path, Offering(Decreed(missing="install it")), TARGET)


def test_backend_that_no_exporter_feeds_is_named(tmp_path: Path) -> None:
    class Files(Decreed):
        formats = (OnnxModel,)  # type: ignore[assignment]

    with pytest.raises(PluginError, match="backend 'decreed-cpu' can't be given this model: no installed"):
        chosen(tmp_path, Offering(Files()), TARGET)


def test_model_stays_and_nothing_is_left_of_exports(tmp_path: Path) -> None:
    model, _ = narrowable()
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    chosen(tmp_path, Offering(Decreed()), TARGET)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert {path.suffix for path in (tmp_path / "latency").iterdir()} == {".json"}


def test_what_the_export_of_candidates_says_is_not_passed_on(tmp_path: Path) -> None:
    class Talking(Offering):
        def convert(self, model: Any, target: Any, context: Context) -> Any:
            context.log("export", 1.0)
            context.warn("an old operator")
            with context.progress("export", 1) as bar:
                bar.update(1)
            return model

    class Files(Decreed):
        formats = (OnnxModel,)  # type: ignore[assignment]

    services = Talking(Files())
    chosen(tmp_path, services, TARGET)
    assert services.warnings == []
    assert services.values("export") == []


def layered() -> CostModel:
    """Two groups of 4 and 8 units; a layer of each, and one between."""
    between = Term(80.0, ((8, {"b": 1}), (4, {"a": 1})))
    return CostModel({"a": 4, "b": 8}, (Term(20.0, ((4, {"a": 1}),)), between))


def test_gains_of_neighbours_share_what_goes_from_the_layer_between() -> None:
    # of time that goes as the operations do
    curves = {"a": Curve((4, 2), (0.0, 5.0)), "b": Curve((8, 4), (0.0, 4.0))}
    model = LatencyModel(10.0, curves, layered())
    assert model.at({"a": 4, "b": 8}) == pytest.approx(10.0)
    assert model.at({"a": 2, "b": 8}) == pytest.approx(5.0)
    assert model.at({"a": 4, "b": 6}) == pytest.approx(8.0)
    # the layer between costs a quarter, not nothing
    assert model.at({"a": 2, "b": 4}) == pytest.approx(10.0 * (10 + 20) / 100)


def test_way_skips_widths_that_are_no_faster() -> None:
    macs = CostModel({"a": 8}, (Term(8.0, ((8, {"a": 1}),)),))
    model = LatencyModel(8.0, {"a": Curve((8, 6, 4, 2), (0.0, 0.0, 4.0, 4.0))}, macs)
    lost = {"a": np.linspace(1.0, 0.0, 9)}
    way = cheapest_way(model, lost, {"a": (8, 6, 4, 2)})
    assert [stop.widths["a"] for stop in way] == [8, 4]
    assert [stop.predicted_ms for stop in way] == pytest.approx([8.0, 4.0])


def test_price_is_between_that_of_a_unit_and_that_of_what_is_saved() -> None:
    assert price(6.0, 4, 9.0) == pytest.approx(1.0)
    # a step twice as large that loses and saves twice as much is as good
    assert price(12.0, 8, 18.0) == pytest.approx(price(6.0, 4, 9.0))
    assert price(1.0, 1, 0.0) == float("inf")


def test_latency_model_of_a_net_whose_time_is_its_macs() -> None:
    model, groups = narrowable()
    macs = cost_model(model.module, groups, Cost.MACS, (torch.zeros(1, 1, 8, 8),))
    whole = macs.at(macs.sizes)
    curves = {
        name: Curve((size, size // 2), (0.0, whole - macs.at(macs.sizes | {name: size // 2})))
        for name, size in macs.sizes.items()
    }
    latency = LatencyModel(whole, curves, macs)
    for widths in ({"0": 16, "2": 24}, {"0": 20, "2": 30}):
        assert latency.at(widths) == pytest.approx(macs.at(widths))


class Clock:
    """Time that passes by decree."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def call(self, *durations_ms: float) -> Callable[[], None]:
        left = list(durations_ms)

        def run() -> None:
            # the last one lasts
            self.now += round((left.pop(0) if len(left) > 1 else left[0]) * 1e6)

        return run


def test_ratio_is_of_medians_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trials, "time", clock)
    assert interleaved_ratio(clock.call(3.0), clock.call(2.0)) == pytest.approx((1.5, 3.0))
    # a pause of a second, past the five calls of warm-up, changes nothing
    paused = clock.call(3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1000.0, 3.0)
    assert interleaved_ratio(paused, clock.call(2.0), rounds=5) == pytest.approx((1.5, 3.0))


def test_machine_that_slows_down_halfway_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trials, "time", clock)

    def slowing(ms: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += round(ms * 1e6 * (1 if clock.now < 300e6 else 3))

        return run

    ratio, _ = interleaved_ratio(slowing(2.0), slowing(2.0))
    assert ratio == pytest.approx(1.0)


def test_clock_too_coarse_for_a_call_divides_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trials, "time", clock)
    slow = iter(range(10**6))

    def coarse() -> None:
        # one call in twenty is seen by the clock
        clock.now += 15_000_000 if next(slow) % 20 == 19 else 0

    ratio, _ = interleaved_ratio(coarse, coarse, rounds=3)
    assert np.isfinite(ratio)


def test_batch_and_threads_reach_the_backend(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    class Asked(Decreed):
        def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
            told.append((threads, batch_size))
            return Session4(1.0)

    class Session4(DecreedSession):
        def bind(self, inputs: tuple[np.ndarray, ...]) -> Callable[[], object]:
            assert inputs[0].shape == (4, 1, 8, 8)
            return partial(float, self.ms)

    model, _ = narrowable()
    tried = Trials(model, Asked(), context_of(tmp_path), threads=2, batch_size=4)
    tried.speedup({"0": 1}, lambda: model)
    tried.close()
    assert set(told) == {(2, 4)}
