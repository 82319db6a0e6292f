"""Zeros that were promised are restored, counted and found again in files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hydrapress.artifacts import TensorLocation
from hydrapress.errors import ModelError
from hydrapress.invariants import Kept, SparsityMask, StoredTensor, load_invariants, save_invariants

KNOWN = {"sparsity": SparsityMask}
KEEP = np.array([[True, False, False], [False, True, True]])


@pytest.fixture
def mask() -> SparsityMask:
    return SparsityMask({"weight": KEEP})


@pytest.fixture
def linear() -> nn.Linear:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    return layer


def test_the_sparsity_is_the_fraction_of_zeros(mask: SparsityMask) -> None:
    assert mask.sparsity == 0.5
    assert SparsityMask({}).sparsity == 0.0


def test_a_mask_of_numbers_is_a_mask() -> None:
    numbers: np.ndarray = np.array([[1, 0, 0], [0, 1, 1]], dtype=np.float32)
    np.testing.assert_array_equal(SparsityMask({"weight": numbers}).masks["weight"], KEEP)


def test_projecting_restores_the_zeros_and_nothing_else(mask: SparsityMask, linear: nn.Linear) -> None:
    bias = linear.bias.detach().clone()
    mask.project_(linear)
    assert linear.weight.tolist() == [[1.0, 0.0, 0.0], [0.0, 5.0, 6.0]]
    assert torch.equal(linear.bias, bias)
    assert linear.weight.requires_grad


def test_zeros_that_broke_are_counted(mask: SparsityMask, linear: nn.Linear) -> None:
    broken = mask.check(linear)
    assert (broken.promised, broken.kept, broken.holds) == (3, 0, False)
    mask.project_(linear)
    with torch.no_grad():
        linear.weight[0, 1] = 0.5
        linear.weight[0, 0] = 0.0  # one more zero breaks nothing
    kept = mask.check(linear)
    assert (kept.promised, kept.kept) == (3, 2)
    assert str(kept) == (
        "invariant/sparsity: kept 2 of 3: 'weight' has 1 nonzeros where zeros were promised "
        "(0.666 of its zeros kept)"
    )
    mask.project_(linear)
    assert mask.check(linear).holds
    assert str(mask.check(linear)) == "invariant/sparsity: kept 3 of 3"


def test_not_a_number_is_no_zero(mask: SparsityMask, linear: nn.Linear) -> None:
    mask.project_(linear)
    with torch.no_grad():
        linear.weight[0, 1] = float("nan")
    assert mask.check(linear).kept == 2
    mask.project_(linear)
    assert mask.check(linear).holds


def test_half_precision_is_checked_too(mask: SparsityMask, linear: nn.Linear) -> None:
    linear.to(torch.bfloat16)
    mask.project_(linear)
    assert mask.check(linear).holds


@pytest.mark.parametrize("module", [nn.Linear(4, 2), nn.Linear(1, 1), nn.ReLU()])
def test_a_parameter_that_is_gone_or_reshaped_breaks_the_promise(
    mask: SparsityMask, module: nn.Module
) -> None:
    mask.project_(module)
    kept = mask.check(module)
    assert not kept.holds
    assert kept.broken == ("'weight' is gone or has another shape",)


def test_tied_parameters_are_covered_by_either_name() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    second.weight = first.weight
    net = nn.Sequential(first, second)
    mask = SparsityMask({"1.weight": KEEP})
    mask.project_(net)
    assert mask.check(net).holds
    assert first.weight[0, 1] == 0


# as an exporter and a quantizer leave them: transposed, with a zero point a channel
AXES = (1, 0)
ZERO_POINT = np.array([[-3, 7]])
QUANTIZED = np.where(KEEP.T, 100, ZERO_POINT).astype(np.int8)


def test_zeros_are_zero_points_in_a_file(mask: SparsityMask) -> None:
    tensors = {"fc_q": StoredTensor(QUANTIZED, ZERO_POINT, 0.1)}
    locations = {"weight": TensorLocation("fc_q", AXES, scaled=True)}
    assert mask.check_tensors(tensors, locations) == Kept("sparsity", 3, 3)


def test_nonzeros_in_a_file_are_counted(mask: SparsityMask) -> None:
    values = QUANTIZED.copy()
    values[1, 0] = 0  # zero, but the zero point is -3
    kept = mask.check_tensors(
        {"fc_q": StoredTensor(values, ZERO_POINT)}, {"weight": TensorLocation("fc_q", AXES)}
    )
    assert (kept.kept, kept.promised) == (2, 3)
    assert kept.broken == (
        "'weight' has 1 nonzeros in the file where zeros were promised (0.666 of its zeros kept)",
    )


def test_a_file_may_have_one_more_axis_of_length_one(mask: SparsityMask) -> None:
    location = {"weight": TensorLocation("w", (1, 0))}
    kept = KEEP.T.astype(np.float32)[:, None]
    assert mask.check_tensors({"w": StoredTensor(kept)}, location).holds
    assert not mask.check_tensors({"w": StoredTensor(np.ones_like(kept))}, location).holds


def test_plain_floats_in_a_file(mask: SparsityMask) -> None:
    stored = StoredTensor(KEEP.astype(np.float32))
    assert mask.check_tensors({"w": stored}, {"weight": TensorLocation("w", (0, 1))}).holds


@pytest.mark.parametrize(
    ("locations", "message"),
    [
        ({}, "'weight' can't be found in the file"),
        ({"weight": TensorLocation("other", (0, 1))}, "'weight' can't be found in the file"),
        ({"weight": TensorLocation("w", (1, 0))}, r"'weight' has shape (2, 3) in the file, not (3, 2)"),
        ({"weight": TensorLocation("w", (0, 1, 2))}, "'weight' has 2 axes, which (0, 1, 2) does not order"),
    ],
)
def test_an_unmapped_parameter_breaks_the_promise(
    locations: dict[str, TensorLocation], message: str, mask: SparsityMask
) -> None:
    kept = mask.check_tensors({"w": StoredTensor(KEEP.astype(np.float32))}, locations)
    assert not kept.holds
    assert kept.kept == 0
    assert kept.broken == (message,)


def test_invariants_come_back_from_a_folder(mask: SparsityMask, tmp_path: Path) -> None:
    save_invariants((mask,), tmp_path)
    (again,) = load_invariants(tmp_path, KNOWN)
    assert isinstance(again, SparsityMask)
    assert list(again.masks) == ["weight"]
    np.testing.assert_array_equal(again.masks["weight"], KEEP)
    assert again.masks["weight"].dtype == bool


def test_no_invariants_leave_no_files(tmp_path: Path) -> None:
    save_invariants((), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert load_invariants(tmp_path, KNOWN) == ()


def test_an_unknown_invariant_is_named(mask: SparsityMask, tmp_path: Path) -> None:
    save_invariants((mask,), tmp_path)
    (tmp_path / "invariants.json").write_text(json.dumps(["../sparsity"]))
    with pytest.raises(
        ModelError, match=r"invariant '../sparsity' is not known here; allowed: sparsity. Install"
    ):
        load_invariants(tmp_path, KNOWN)


@pytest.mark.parametrize("content", ["{", "3", "[[]]", "[" * 100_000])
def test_a_malformed_listing_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "invariants.json").write_text(content)
    with pytest.raises(ModelError, match=r"invariants.json: can't be read"):
        load_invariants(tmp_path, KNOWN)


@pytest.mark.parametrize("keep", [None, 0, 20])
def test_a_missing_or_truncated_mask_is_named(keep: int | None, mask: SparsityMask, tmp_path: Path) -> None:
    save_invariants((mask,), tmp_path)
    path = tmp_path / "invariant-sparsity.safetensors"
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"invariants.json: can't be read"):
        load_invariants(tmp_path, KNOWN)
