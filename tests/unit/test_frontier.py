"""The frontier is the set that the definition gives, ties and gaps included; hypervolumes are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hydrapress_registry.frontier import Axis, dominator, hypervolume, nondominated
from hydrapress_registry.frontier_table import FrontierRow, print_frontier

SIZE, ACCURACY = Axis("size_bytes", True), Axis("accuracy", False)


@st.composite
def clouds(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    """Draw few points over few values, so that ties abound; some numbers are missing or infinite."""
    metrics = draw(st.integers(1, 3))
    number = st.integers(0, 4).map(float) | st.sampled_from([-0.0, float("nan"), float("inf"), -float("inf")])
    rows = draw(st.lists(st.lists(number, min_size=metrics, max_size=metrics), max_size=25))
    ways = draw(st.lists(st.booleans(), min_size=metrics, max_size=metrics))
    return np.array(rows, dtype=float).reshape(-1, metrics), ways


@st.composite
def finite_clouds(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    """Draw points on a grid of whole numbers from 0 to 5."""
    metrics = draw(st.integers(1, 3))
    rows = draw(
        st.lists(st.lists(st.integers(0, 5), min_size=metrics, max_size=metrics), min_size=1, max_size=20)
    )
    ways = draw(st.lists(st.booleans(), min_size=metrics, max_size=metrics))
    return np.array(rows, dtype=float), ways


def beats(a: np.ndarray, b: np.ndarray, ways: list[bool]) -> bool:
    pairs = [(x, y) if smaller else (y, x) for x, y, smaller in zip(a, b, ways, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def by_definition(points: np.ndarray, ways: list[bool]) -> list[int]:
    known = [i for i, point in enumerate(points) if not np.isnan(point).any()]
    return [i for i in known if not any(beats(points[j], points[i], ways) for j in known)]


def volume_by_cells(points: np.ndarray, ways: list[bool], reference: list[float]) -> int:
    """Count unit cells between points and reference, one by one."""
    costs = np.where(ways, points, -points)
    end = np.where(ways, reference, -np.asarray(reference))
    low = costs.min(axis=0)
    ranges = [np.arange(a, b) for a, b in zip(low, end, strict=True)]
    cells = np.array(np.meshgrid(*ranges, indexing="ij")).reshape(len(ways), -1).T
    return sum(bool((costs <= cell).all(axis=1).any()) for cell in cells)


@given(clouds())
def test_frontier_is_what_the_definition_says(cloud: tuple[np.ndarray, list[bool]]) -> None:
    points, ways = cloud
    assert nondominated(points, ways).tolist() == by_definition(points, ways)


@given(clouds(), st.randoms(use_true_random=False))
def test_order_of_points_does_not_matter(cloud: tuple[np.ndarray, list[bool]], random: object) -> None:
    points, ways = cloud
    order = list(range(len(points)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis types it as object
    shuffled = {order[i] for i in nondominated(points[order], ways).tolist()}
    assert shuffled == set(nondominated(points, ways).tolist())


@given(clouds())
def test_equal_points_stand_or_fall_together(cloud: tuple[np.ndarray, list[bool]]) -> None:
    points, ways = cloud
    once, twice = nondominated(points, ways), nondominated(np.vstack([points, points]), ways)
    assert twice.tolist() == [*once.tolist(), *(once + len(points)).tolist()]


@given(clouds())
def test_every_dominated_point_has_a_dominator_on_the_frontier(cloud: tuple[np.ndarray, list[bool]]) -> None:
    points, ways = cloud
    frontier = nondominated(points, ways)
    for index, by in enumerate(dominator(points, ways, frontier).tolist()):
        if index in frontier or np.isnan(points[index]).any():
            assert by == -1
        else:
            assert by in frontier
            assert beats(points[by], points[index], ways)


@pytest.mark.parametrize("kind", ["plane", "staircase"])
def test_large_sets_where_no_point_beats_another(kind: str) -> None:
    noise = np.random.default_rng(0)
    rising = noise.random(20_000)
    points = np.column_stack([rising, 1 - rising])
    if kind == "staircase":
        points = np.column_stack([noise.random(20_000), points])
    assert len(nondominated(points, [True] * points.shape[1])) == 20_000


def test_no_points_have_no_frontier() -> None:
    assert nondominated(np.empty((0, 2)), [True, True]).size == 0
    assert nondominated(np.full((3, 2), np.nan), [True, True]).size == 0


@pytest.mark.parametrize(
    ("shape", "ways"), [((4,), [True]), ((4, 2), [True]), ((4, 4), [True] * 4), ((4, 0), [])]
)
def test_wrong_shapes_are_refused(shape: tuple[int, ...], ways: list[bool]) -> None:
    with pytest.raises(ValueError, match="1 to 3 metrics and one direction a metric"):
        nondominated(np.zeros(shape), ways)


@given(finite_clouds())
def test_hypervolume_is_the_number_of_cells(cloud: tuple[np.ndarray, list[bool]]) -> None:
    points, ways = cloud
    reference = [6.0 if smaller else -1.0 for smaller in ways]
    assert hypervolume(points, ways, reference) == volume_by_cells(points, ways, reference)


def test_hypervolume_of_two_boxes_is_their_sum_less_what_they_share() -> None:
    points = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert hypervolume(points, [True] * 3, [4.0, 4.0, 4.0]) == 3 * 2 * 1 + 1 * 3 * 2 - 1 * 2 * 1


def test_normalised_hypervolume_is_a_fraction_of_the_box() -> None:
    points = np.array([[0.0, 0.5], [0.5, 1.0]])  # size and accuracy
    assert hypervolume(points, [True, False], [1.0, 0.0]) == pytest.approx(0.75)
    assert hypervolume(points * [1000, 1], [True, False], [1000, 0], normalised=True) == pytest.approx(0.75)


def test_points_beyond_the_reference_or_with_gaps_count_nothing() -> None:
    points = np.array([[1.0, 1.0], [2.0, 9.0], [np.nan, 0.0]])
    assert hypervolume(points, [True, True], [3.0, 3.0]) == 4.0
    assert hypervolume(points[1:], [True, True], [3.0, 3.0]) == 0.0


def test_hypervolume_refuses_infinite_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        hypervolume(np.array([[1.0, 1.0]]), [True, True], [np.inf, 3.0])


def printed(rows: list[FrontierRow], axes: list[Axis], capsys: pytest.CaptureFixture[str]) -> str:
    print_frontier(rows, axes, Console(width=160))
    return capsys.readouterr().out


def test_terminal_shows_the_frontier_and_says_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        FrontierRow("sparsity=0.5", "int8", "onnxruntime-cpu", {"size_bytes": 40_000.0, "accuracy": 0.98}),
        FrontierRow(
            "[bold]odd[/bold]", "onnx", "onnxruntime-cpu", {"size_bytes": 90_000.0, "accuracy": 0.99}
        ),
        FrontierRow("worse", "onnx", "onnxruntime-cpu", {"size_bytes": 95_000.0, "accuracy": 0.97}),
        FrontierRow("half", "onnx", "onnxruntime-cpu", {"size_bytes": 1.0}),
        FrontierRow("gap", "onnx", "onnxruntime-cpu", {"size_bytes": 1.0, "accuracy": float("nan")}),
    ]
    out = printed(rows, [SIZE, ACCURACY], capsys)
    assert "2 of 3 points" in out
    assert "2 more lack a metric" in out
    assert out.index("40.0 kB") < out.index("90.0 kB")
    assert "worse" not in out


def test_terminal_says_when_there_is_no_frontier(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing was measured on all of them" in printed([], [SIZE, ACCURACY], capsys)
