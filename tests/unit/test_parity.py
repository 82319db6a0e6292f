"""Parity: every figure by hand, what is allowed, and the first layer that diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapress.artifacts import FileModel, Model, OnnxModel, Precision, Signature, TensorLocation, TensorSpec
from hydrapress.backend import Backend, Layer, Session, Trace
from hydrapress.compose import compose_config
from hydrapress.errors import BackendError, ConfigError, ModelError
from hydrapress.job import read_config
from hydrapress.parity.alignment import align, informative
from hydrapress.parity.difference import compare_outputs, cosine
from hydrapress.parity.divergence import first_divergence, match_layers
from hydrapress.parity.hop import compare, describe_divergence, outputs_of, require_parity
from hydrapress.parity.tolerance import ParityProtocol, Tolerance

STRICT = ParityProtocol().float32
COARSE = ParityProtocol().int8


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


# --- figures ----------------------------------------------------------------------------


def test_differences_are_the_largest_of_all_values_and_relative_to_the_largest_expected() -> None:
    difference = compare_outputs([rows([0.0, 4.0], [1.0, -8.0])], [rows([0.5, 4.0], [1.0, -6.0])])
    assert difference.max_absolute == 2.0
    assert difference.max_relative == 0.25


def test_cosine_by_hand() -> None:
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert cosine(np.array([1.0, 2.0]), np.array([-2.0, -4.0])) == pytest.approx(-1.0)
    assert cosine(np.zeros(2), np.zeros(2)) == 1.0
    assert cosine(np.zeros(2), np.ones(2)) == 0.0


def test_agreement_and_divergence_of_class_scores_by_hand() -> None:
    # softmax of ln(odds) is the odds over their sum
    expected, actual = np.log(rows([1.0, 3.0], [3.0, 1.0])), np.log(rows([1.0, 1.0001], [1.0, 3.0]))
    difference = compare_outputs([expected], [actual])
    assert difference.top1_agreement == 0.5
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    second = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert difference.kl == pytest.approx((first + second) / 2, abs=1e-4)


def test_what_is_no_table_of_scores_has_no_agreement() -> None:
    picture = np.ones((2, 3, 4), dtype=np.float32)
    difference = compare_outputs([picture], [picture])
    assert difference.top1_agreement is None
    assert difference.kl is None
    assert set(difference.metrics()) == {
        "parity/max_abs_diff",
        "parity/max_rel_diff",
        "parity/cosine",
        "parity/nonfinite",
    }


def test_the_worst_output_counts() -> None:
    same, off = rows([1.0, 2.0]), rows([1.0, 3.0])
    assert compare_outputs([same, same], [same, off]).max_absolute == 1.0


def test_values_that_ceased_to_be_finite_are_counted_and_no_figure_is_nan() -> None:
    difference = compare_outputs([rows([1.0, 2.0, np.inf])], [rows([np.nan, np.inf, np.inf])])
    assert difference.nonfinite == 2
    assert all(math.isfinite(value) for value in difference.metrics().values())
    assert STRICT.problems(difference.metrics())[0] == "2 of its values are NaN or infinite"


def test_an_empty_output_differs_in_nothing() -> None:
    assert compare_outputs([np.zeros((2, 0))], [np.zeros((2, 0))]).max_absolute == 0.0


def test_metrics_carry_every_figure_under_its_name() -> None:
    metrics = compare_outputs([rows([1.0, 2.0])], [rows([1.0, 2.0])]).metrics()
    assert metrics["parity/top1_agreement"] == 1.0
    assert metrics["parity/kl"] == 0.0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shapes \(1, 3\); those of the other model have \(1, 2\)"):
        compare_outputs([np.zeros((1, 2))], [np.zeros((1, 3))])
    with pytest.raises(ModelError, match=r"shapes none; those of the other model have \(1, 2\)"):
        compare_outputs([np.zeros((1, 2))], [])


# --- what is allowed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("parity/max_rel_diff", 0.5, r"differ by 0\.5 of the largest output \(allowed: 0\.0001\)"),
        ("parity/max_rel_diff", math.nan, "differ by nan"),
        ("parity/cosine", 0.5, r"cosine is 0\.5000 \(at least 0\.9 is wanted\)"),
        ("parity/top1_agreement", 0.5, r"agrees in 50\.0% of the samples \(at least 75\.0% is wanted\)"),
    ],
)
def test_each_measure_has_its_own_sentence(metric: str, value: float, expected: str) -> None:
    sound = {"parity/max_rel_diff": 0.0, "parity/cosine": 1.0, "parity/top1_agreement": 1.0}
    tolerance = Tolerance(1e-4, 0.9, 0.75)
    assert tolerance.problems(sound) == []
    with pytest.raises(AssertionError, match=expected):
        assert not tolerance.problems(sound | {metric: value}), tolerance.problems(sound | {metric: value})


def test_the_arithmetic_of_the_product_chooses_the_tolerance() -> None:
    protocol = ParityProtocol()
    chosen = [protocol.tolerance_of(file_model(precision=precision)).max_relative for precision in Precision]
    assert chosen == [1e-4, 0.02, 0.1, 1.0]


def test_tolerances_are_set_on_the_command_line() -> None:
    config = compose_config(
        ["parity.samples=64", "parity.float32.max_relative=1e-3", "parity.int8.least_cosine=0.8"]
    )
    protocol = read_config(config).parity
    assert protocol.samples == 64
    assert protocol.float32 == Tolerance(1e-3, 0.999)
    assert protocol.int8 == Tolerance(1.0, 0.8)


def test_all_values_out_of_range_are_named_at_once() -> None:
    protocol = ParityProtocol(samples=0, int8=Tolerance(-1.0, 2.0, -0.5))
    with pytest.raises(ConfigError) as caught:
        protocol.require_sound()
    text = str(caught.value)
    assert "parity.samples is 0; it must be at least 1" in text
    assert "parity.int8.max_relative is -1; it must be 0 or more" in text
    assert "parity.int8.least_cosine is 2; it must satisfy -1 <= x <= 1" in text
    assert "parity.int8.least_agreement is -0.5; it must satisfy 0 <= x <= 1" in text


# --- alignment --------------------------------------------------------------------------


def test_a_value_is_found_by_its_numbers_whatever_its_name_and_order_of_axes() -> None:
    picture = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    target = {
        "same": picture,
        "channels_last": picture.transpose(0, 2, 3, 1),
        "flat": picture.reshape(2, -1),
        "flat_channels_last": picture.transpose(0, 2, 3, 1).reshape(2, -1),
        "other": picture[::-1] * 2,
    }
    found = align({"made": picture}, target, STRICT)
    assert {name: match.source for name, match in found.items()} == dict.fromkeys(list(target)[:4], "made")
    assert all(match.agrees and match.error == 0 for match in found.values())


def test_a_value_of_the_same_name_is_kept_as_a_match_that_does_not_agree() -> None:
    match = align({"a": rows([1.0, 2.0])}, {"a": rows([1.0, 4.0])}, STRICT)["a"]
    assert (match.agrees, match.distance) == (False, 1.0)
    assert match.error == pytest.approx(2 / math.sqrt(5))


def test_masks_infinite_in_both_models_agree_and_an_infinity_of_one_does_not() -> None:
    mask = rows([0.0, -np.inf, 1.0])
    assert align({"a": mask}, {"b": mask}, STRICT)["b"].agrees
    match = align({"a": rows([0.0, 2.0, 1.0])}, {"a": mask}, STRICT)["a"]
    assert (match.agrees, match.error) == (False, math.inf)


def test_to_a_loose_eye_a_name_is_worth_more_than_likeness() -> None:
    source = {"a": rows([1.0, 2.0, 3.0]), "b": rows([1.0, 2.0, 3.1])}
    match = align(source, {"a": rows([3.0, 1.0, 1.0]), "c": rows([1.0, 2.0, 3.1])}, COARSE)
    assert (match["a"].source, match["a"].agrees) == ("a", False)
    assert (match["c"].source, match["c"].agrees) == ("b", True)


def test_shapes_and_constants_tell_nothing() -> None:
    assert not informative(np.array([1, 2]))
    assert not informative(np.zeros(3))
    assert not informative(np.array([1.0]))
    assert informative(np.array([1.0, np.nan]))


# --- divergence on random graphs --------------------------------------------------------

Operator = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Step:
    """One operator of a random graph."""

    name: str
    inputs: tuple[str, ...]
    constant: np.ndarray
    joins: bool


def random_graph(seed: int, length: int) -> list[Step]:
    """Affine layers with residual joins and branches; every step's inputs come before it."""
    draw = np.random.default_rng(seed)
    steps = [Step("s0", ("x",), draw.normal(size=(6, 6)), joins=False)]
    for index in range(1, length):
        joins = index > 1 and draw.random() < 0.3
        count = 2 if joins else 1
        # the last one is always taken, so that each step leads to the output
        chosen = [f"s{index - 1}", *(f"s{i}" for i in draw.integers(0, index, size=count - 1))]
        steps.append(Step(f"s{index}", tuple(chosen), draw.normal(size=(6, 6)), joins))
    return steps


def run_graph(
    steps: list[Step], x: np.ndarray, *, seed: int = 0, deployed: bool = False, fault: int = -1
) -> Trace:
    """Run it; deployed, some steps are taken apart, some values moved, and all have new names."""
    draw = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {"x": x}
    layers: list[Layer] = []
    names = {"x": "x"}

    def add(name: str, kind: str, inputs: tuple[str, ...], value: np.ndarray, *constants: str) -> None:
        values[name] = value.astype(np.float32)
        layers.append(Layer(name, kind, inputs, (name,), constants))

    for index, step in enumerate(steps):
        given = [values[names[name]] for name in step.inputs]
        if deployed:
            # what was moved is moved back before it is used
            given = [each.T if each.shape != x.shape else each for each in given]
        inputs = tuple(names[name] for name in step.inputs)
        name = f"t{index}" if deployed else step.name
        if step.joins:
            result = given[0] + given[1]
            # no whole number: sums of one step with itself are multiples of it
            result = result * (2.7 if index == fault else 1.0)
            add(name, "Add", inputs, result)
        else:
            constant = step.constant.copy()
            if index == fault:
                constant[2] += 2.0
            result = given[0] @ constant
            if not deployed:
                add(f"{name}_product", "MatMul", inputs, result, f"{name}.weight")
                add(name, "Tanh", (f"{name}_product",), np.tanh(result))
            elif draw.random() < 0.5:  # fused: the product has no counterpart
                add(name, "MatMulTanh", inputs, np.tanh(result), f"{name}_constant")
            else:  # moved: the same numbers in another order of axes
                add(name, "MatMulTanhTranspose", inputs, np.tanh(result).T, f"{name}_constant")
        names[step.name] = name
    return Trace(tuple(layers), values)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 12), tolerance=st.sampled_from([STRICT, COARSE]))
def test_a_trace_never_diverges_from_itself_or_from_its_deployed_form(
    seed: int, length: int, tolerance: Tolerance
) -> None:
    steps, x = random_graph(seed, length), np.random.default_rng(seed).normal(size=(8, 6)).astype(np.float32)
    source = run_graph(steps, x)
    assert first_divergence(source, source, tolerance) is None
    assert first_divergence(source, run_graph(steps, x, seed=seed, deployed=True), STRICT) is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 12), data=st.data())
def test_a_planted_fault_is_found_at_exactly_its_layer(seed: int, length: int, data: st.DataObject) -> None:
    fault = data.draw(st.integers(0, length - 1))
    steps, x = random_graph(seed, length), np.random.default_rng(seed).normal(size=(8, 6)).astype(np.float32)
    source = run_graph(steps, x)
    found = first_divergence(source, run_graph(steps, x, seed=seed, deployed=True, fault=fault), STRICT)
    assert found is not None
    assert found.layer.name == f"t{fault}"


# --- divergence, case by case -----------------------------------------------------------


def chain(*steps: tuple[str, str, str, np.ndarray], **values: np.ndarray) -> Trace:
    """Make a trace of (name, kind, input, output)."""
    layers = tuple(Layer(name, kind, (given,), (name,)) for name, kind, given, _ in steps)
    return Trace(layers, {**values, **{name: value for name, _, _, value in steps}})


A, B, C, D = np.random.default_rng(1).normal(size=(4, 2, 6)).astype(np.float32)


def test_a_layer_taken_apart_is_sound_where_its_parts_join_again() -> None:
    source = chain(("norm", "LayerNorm", "x", B), ("out", "Linear", "norm", C), x=A)
    target = chain(("minus", "Sub", "x", D), ("times", "Mul", "minus", B), ("end", "Gemm", "times", C), x=A)
    judged = match_layers(source, target, STRICT)
    assert [each.healthy for each in judged] == [True, True, True]
    assert [each.match.source if each.match else None for each in judged] == [None, "norm", "out"]
    assert first_divergence(source, target, STRICT) is None


def test_the_source_layer_is_named_by_its_parameter() -> None:
    source = chain(("out", "Linear", "x", B), x=A)
    target = Trace((Layer("node_1", "Gemm", ("x",), ("y",), ("w", "b")),), {"x": A, "y": B + 1})
    found = first_divergence(source, target, STRICT, {"head.fc.weight": TensorLocation("w", (0, 1))})
    assert str(found) == (
        "the first layer that diverges is 'node_1' (Gemm, w, b), which is 'head.fc' in the model it came from"
    )


def test_the_source_layer_is_named_by_what_it_takes_and_how_much_it_gives() -> None:
    source = chain(("fold", "Reshape", "x", A.reshape(4, 3)), ("fc", "Linear", "fold", B), x=A)
    target = chain(("node", "Gemm", "x", B + 1), x=A)
    found = first_divergence(source, target, STRICT)
    assert found is not None
    assert found.source == "fc"


def test_the_source_layer_is_named_by_its_own_name_and_the_difference_is_told() -> None:
    source, target = chain(("fc", "Gemm", "x", B), x=A), chain(("fc", "Gemm", "x", -B), x=A)
    found = first_divergence(source, target, STRICT)
    assert str(found) == (
        "the first layer that diverges is 'fc' (Gemm), which is 'fc' in the model it came from; "
        "its output differs by 2 of the largest value (cosine -1.0000)"
    )


def test_where_nothing_is_known_of_the_source_only_the_layer_is_named() -> None:
    source = chain(("fc", "Linear", "x", B), x=A)
    target = Trace((Layer("n", "Gemm", ("unknown",), ("y",)),), {"y": C * 9})
    assert str(first_divergence(source, target, STRICT)) == "the first layer that diverges is 'n' (Gemm)"


def test_a_padding_is_not_blamed_for_the_convolution_that_takes_it() -> None:
    padded = np.pad(A, 1)
    source = chain(("conv", "Conv", "x", B), x=A)
    target = chain(("pad", "PAD", "x", padded), ("conv2", "CONV_2D", "pad", B * 2), x=A)
    found = first_divergence(source, target, STRICT)
    assert found is not None
    assert found.layer.name == "conv2"
    wrong = chain(("pad", "PAD", "x", padded + 1), ("conv2", "CONV_2D", "pad", B * 2), x=A)
    found = first_divergence(source, wrong, STRICT)
    assert found is not None
    assert found.layer.name == "pad"


def test_a_layer_whose_value_was_not_kept_is_passed_over() -> None:
    source = chain(("a", "Relu", "x", B), ("b", "Linear", "a", C), x=A)
    target = Trace(
        (Layer("hidden", "Relu", ("x",), ("h",)), Layer("b2", "Gemm", ("h",), ("y",))), {"x": A, "y": C * 2}
    )
    found = first_divergence(source, target, STRICT)
    assert found is not None
    assert found.layer.name == "b2"


def test_in_coarse_arithmetic_the_layer_that_makes_the_error_leap_is_named() -> None:
    draw = np.random.default_rng(3)

    def noisy(values: np.ndarray, part: float) -> np.ndarray:
        added = part * np.abs(values).mean() * draw.normal(size=values.shape)
        return np.asarray(values + added, dtype=np.float32)

    kinds = [("a", "Conv", "x", A), ("b", "Conv", "a", B), ("c", "Conv", "b", C), ("d", "Gemm", "c", D)]
    source = chain(*kinds, x=A)
    errors = {"a": 0.02, "b": 0.03, "c": 0.6, "d": 0.9}
    target = chain(*((n, k, i, noisy(v, errors[n])) for n, k, i, v in kinds), x=A)
    found = first_divergence(source, target, COARSE)
    assert found is not None
    assert found.layer.name == "c"
    growing = chain(
        *((n, k, i, noisy(v, e)) for (n, k, i, v), e in zip(kinds, (0.01, 0.02, 0.05, 0.1), strict=True)), x=A
    )
    assert first_divergence(source, growing, COARSE) is None


def test_a_name_kept_for_the_value_before_a_fused_activation_is_no_leap() -> None:
    positive = np.maximum(B, 0)
    source = chain(
        ("conv", "Conv", "x", A), ("relu", "Relu", "conv", positive), ("fc", "Gemm", "relu", C), x=D
    )
    target = chain(
        ("relu", "Conv", "x", B), ("clamped", "Q", "relu", positive), ("fc", "Gemm", "clamped", C), x=D
    )
    assert first_divergence(source, target, COARSE) is None


def test_a_value_that_ceased_to_be_finite_is_a_leap() -> None:
    source = chain(("a", "Conv", "x", B), ("b", "Conv", "a", C), x=A)
    broken = B.copy()
    broken[0, 0] = np.nan
    target = chain(("a", "Conv", "x", broken), ("b", "Conv", "a", np.full_like(C, np.nan)), x=A)
    for tolerance in (STRICT, COARSE):
        found = first_divergence(source, target, tolerance)
        assert found is not None
        assert found.layer.name == "a"


# --- a hop ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Net(FileModel):
    """Twice the input, then a sum over rows; ``factor`` and ``bias`` may be wrong."""

    format = "net"
    file_name = "net"
    factor: float = 2.0
    bias: float = 0.0


@dataclass(frozen=True)
class Opaque(Net):
    """The same, on a runtime that shows nothing."""


def file_model(**fields: Any) -> FileModel:
    signature = Signature((TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None, 3)),))
    return OnnxModel(signature, path=Path("none.onnx"), params=0, macs=0, **fields)


def net(cls: type[Net] = Net, **fields: Any) -> Net:
    signature = file_model().signature
    return cls(signature, path=Path("none"), params=0, macs=0, **fields)


class NetSession(Session):
    """Runs only the batch size that it was loaded for."""

    def __init__(self, model: Net, batch_size: int) -> None:
        self._model, self._size = model, batch_size

    def run(self, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        if self._model.batch_sizes and len(inputs[0]) not in self._model.batch_sizes:
            raise BackendError(f"takes {self._model.batch_sizes}, not {len(inputs[0])}")
        doubled = inputs[0] * self._model.factor
        return (np.cumsum(doubled, axis=1) + self._model.bias,)


class NetBackend(Backend):
    """Shows both layers of a net, and on how many samples it was asked."""

    name = "net-cpu"
    formats = (Net,)

    def __init__(self) -> None:
        self.traced: list[np.ndarray] = []

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def device(self) -> str:
        return "a test"

    def load(self, model: Model, *, threads: int, batch_size: int) -> Session:
        assert isinstance(model, Net)
        return NetSession(model, batch_size)

    def trace(self, model: Model, inputs: tuple[np.ndarray, ...]) -> Trace:
        if isinstance(model, Opaque):
            return super().trace(model, inputs)
        assert isinstance(model, Net)
        self.traced.append(inputs[0])
        doubled = inputs[0] * model.factor
        end = NetSession(model, len(inputs[0])).run(inputs)[0]
        return chain(("double", "Mul", "x", doubled), ("sum", "CumSum", "double", end), x=inputs[0])


X = (np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32),)


def refused(source: Model, target: Model, backend: NetBackend, tolerance: Tolerance = STRICT) -> str:
    difference = compare(source, target, X, [backend])
    with pytest.raises(ModelError) as caught:
        require_parity(difference, tolerance, source, target, X, [backend])
    return str(caught.value)


def test_a_hop_within_the_tolerance_passes() -> None:
    backend = NetBackend()
    difference = compare(net(), net(), X, [backend])
    assert difference.max_absolute == 0
    require_parity(difference, STRICT, net(), net(), X, [backend])
    assert backend.traced == []


def test_a_hop_beyond_it_says_how_far_and_where_and_what_to_do() -> None:
    text = refused(net(), net(bias=0.5), NetBackend())
    assert "its outputs are not those of the model it came from: they differ by" in text
    assert "The first layer that diverges is 'sum' (CumSum), which is 'sum'" in text
    assert "Raise the tolerance (parity.<precision>.<name>) only if you know why" in text
    assert "'double' (Mul)" in refused(net(), net(factor=3.0), NetBackend())


def test_nan_in_the_outputs_is_named_as_such() -> None:
    assert "21 of its values are NaN or infinite" in refused(net(), net(bias=math.nan), NetBackend())


def test_a_runtime_that_shows_nothing_does_not_hide_the_failure() -> None:
    text = refused(net(), net(Opaque, bias=0.5), NetBackend())
    assert "they differ by" in text
    assert "Where they part can't be told: backend 'net-cpu' does not show the values inside a model" in text


def test_differences_that_only_add_up_name_no_layer() -> None:
    text = describe_divergence(net(), net(), X, STRICT, [NetBackend()])
    assert text.startswith("No single layer diverges")


def test_no_backend_for_a_model_is_said() -> None:
    with pytest.raises(BackendError, match="no backend here runs a OnnxModel"):
        outputs_of(file_model(), X, [NetBackend()])


def test_files_of_fixed_batches_are_compared_on_all_samples() -> None:
    fixed = net(batch_sizes=(2, 4))
    assert len(outputs_of(fixed, X, [NetBackend()])[0]) == 7
    assert compare(net(), fixed, X, [NetBackend()]).max_absolute == 0


def test_both_are_looked_into_on_samples_that_both_take_and_that_show_it_best() -> None:
    backend = NetBackend()
    refused(net(batch_sizes=(1, 4)), net(batch_sizes=(4, 8), factor=3.0), backend)
    assert [len(samples) for samples in backend.traced] == [4, 4]
    worst = X[0][np.abs(np.cumsum(X[0], axis=1)).max(axis=1).argmax()]
    assert np.array_equal(backend.traced[0][0], worst)


def test_no_common_batch_size_is_said() -> None:
    text = refused(net(batch_sizes=(1,)), net(batch_sizes=(2,), bias=1.0), NetBackend())
    assert "can't be told: no batch size is common to both; they are made for (1,), (2,)" in text
