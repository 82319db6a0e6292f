"""Zeros and patterns that were promised are restored, counted and found again in files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from hydrapress.artifacts import TensorLocation
from hydrapress.errors import ModelError
from hydrapress.invariants import (
    BlockSparsity,
    Kept,
    Pattern,
    SparsityMask,
    StoredTensor,
    load_invariants,
    save_invariants,
)
from hydrapress.plugins import installed_plugins

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


# --- blocks -----------------------------------------------------------------------------

ROW = [[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 5.0]]
PROJECTED = [[0.0, -4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 5.0]]


def blocks_of(name: str, *shape: int, n: int = 2, m: int = 4) -> BlockSparsity:
    return BlockSparsity({name: Pattern(n, m, shape)})


def test_of_a_block_with_too_many_the_largest_stay_and_the_others_are_left() -> None:
    layer = nn.Linear(8, 1)
    layer.weight.data = torch.tensor(ROW)
    blocks = blocks_of("weight", 1, 8)
    broken = blocks.check(layer)
    assert (broken.promised, broken.kept) == (2, 1)
    assert str(broken) == (
        "invariant/block_sparsity: kept 1 of 2: 'weight' has 1 blocks of 4 inputs with more than 2 nonzeros "
        "(0.500 of its 2 blocks kept)"
    )
    for _ in range(2):  # once is enough
        blocks.project_(layer)
        assert layer.weight.tolist() == PROJECTED
    assert blocks.check(layer) == Kept("block_sparsity", 2, 2)
    assert layer.weight.requires_grad


def test_of_equal_weights_in_a_block_the_last_stay() -> None:
    layer = nn.Linear(4, 1)
    layer.weight.data = torch.ones(1, 4)
    blocks_of("weight", 1, 4).project_(layer)
    assert layer.weight.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_blocks_of_a_convolution_lie_along_its_input_channels() -> None:
    layer = nn.Conv2d(4, 1, (1, 2))
    # over channels: 1 2 3 4 at the first position of the kernel, 8 0 0 7 at the second
    layer.weight.data = torch.tensor([[[[1.0, 8.0]], [[2.0, 0.0]], [[3.0, 0.0]], [[4.0, 7.0]]]])
    blocks = blocks_of("weight", 1, 4, 1, 2)
    assert (blocks.check(layer).promised, blocks.check(layer).kept) == (2, 1)
    blocks.project_(layer)
    assert layer.weight.flatten(1).tolist() == [[0.0, 8.0, 0.0, 0.0, 3.0, 0.0, 4.0, 7.0]]


def test_the_layout_is_that_of_torch_and_of_nvidias_asp() -> None:
    """ASP brings a convolution to (h * w * out, in), a dense weight stays; groups are along the inputs."""
    weight = torch.randn(6, 8, 3, 3)
    layer = nn.Conv2d(8, 6, 3)
    layer.weight.data = weight.clone()
    blocks_of("weight", 6, 8, 3, 3).project_(layer)
    groups = layer.weight.detach().permute(2, 3, 0, 1).reshape(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    largest = weight.permute(2, 3, 0, 1).reshape(-1, 4).abs().topk(2, dim=1).values.sum()
    assert torch.isclose(groups.abs().sum(), largest)


@pytest.mark.parametrize("module", [nn.Linear(4, 1), nn.Linear(8, 2), nn.ReLU()])
def test_a_covered_weight_that_is_gone_or_reshaped_keeps_no_block(module: nn.Module) -> None:
    blocks = blocks_of("weight", 1, 8)
    blocks.project_(module)
    kept = blocks.check(module)
    assert (kept.promised, kept.kept, kept.holds) == (2, 0, False)
    assert kept.broken == ("'weight' is gone or has another shape",)


def in_file(weight: np.ndarray, axes: tuple[int, ...], zero_point: int = 0) -> StoredTensor:
    return StoredTensor(np.transpose(np.where(weight == 0, zero_point, weight), axes), zero_point)


@pytest.mark.parametrize("zero_point", [0, -3])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["OIHW", "OHWI"])
def test_blocks_are_found_in_a_file_in_any_order_of_axes(axes: tuple[int, ...], zero_point: int) -> None:
    layer = nn.Conv2d(8, 6, (3, 2))
    blocks = blocks_of("weight", 6, 8, 3, 2)
    blocks.project_(layer)
    weight = np.sign(layer.weight.detach().numpy()) * 100
    location = {"weight": TensorLocation("w", axes)}
    assert blocks.check_tensors({"w": in_file(weight, axes, zero_point)}, location).holds
    weight[5, 4:, 2, 1] = 7
    kept = blocks.check_tensors({"w": in_file(weight, axes, zero_point)}, location)
    assert kept.kept == kept.promised - 1 == 71
    assert kept.broken == (
        "'weight' has 1 blocks of 4 inputs in the file with more than 2 nonzeros "
        "(0.986 of its 72 blocks kept)",
    )


def test_blocks_of_a_transposed_constant_with_an_axis_of_length_one() -> None:
    stored = StoredTensor(np.array(PROJECTED).T[None])
    location = {"weight": TensorLocation("w", (1, 0))}
    assert blocks_of("weight", 1, 8).check_tensors({"w": stored}, location).holds
    dense = StoredTensor(np.ones((1, 8, 1)))
    assert blocks_of("weight", 1, 8).check_tensors({"w": dense}, location).kept == 0


def test_a_covered_weight_that_a_file_lacks_keeps_no_block() -> None:
    kept = blocks_of("weight", 1, 8).check_tensors({}, {})
    assert (kept.promised, kept.kept) == (2, 0)
    assert kept.broken == ("'weight' can't be found in the file",)


def test_patterns_come_back_from_a_folder(tmp_path: Path) -> None:
    patterns = {"a.weight": Pattern(2, 4, (3, 8)), "b.weight": Pattern(1, 2, (3, 8, 3, 3))}
    save_invariants((BlockSparsity(patterns), SparsityMask({"weight": KEEP})), tmp_path)
    first, second = load_invariants(tmp_path, installed_plugins().invariants)
    assert isinstance(first, BlockSparsity)
    assert first.patterns == patterns
    assert isinstance(second, SparsityMask)


@pytest.mark.parametrize("array", [[4, 4, 3, 8], [0, 4, 3, 8], [2, 4, 8], [2, 4, 3, 6], [2], [2, 4]])
def test_an_array_that_is_no_pattern_is_refused(array: list[int], tmp_path: Path) -> None:
    save_invariants((blocks_of("weight", 3, 8),), tmp_path)
    save_file({"weight": np.array(array)}, tmp_path / "invariant-block_sparsity.safetensors")
    with pytest.raises(ModelError, match=r"invariants.json: can't be read"):
        load_invariants(tmp_path, {"block_sparsity": BlockSparsity})
