"""Inputs that two models can both be run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydrapress.artifacts import Signature, TensorSpec
from hydrapress.errors import ConfigError
from hydrapress.parity.samples import fit_outputs, fitting_inputs, random_inputs, read_inputs

FIRST = Signature((TensorSpec("x", "float32", (None, 3, 8, 8)),), ())
LAST = Signature((TensorSpec("y", "float32", (1, 8, 8, 3)),), ())
TEXT = Signature((TensorSpec("ids", "int64", (None, 7)), TensorSpec("mask", "int64", (None, 7))), ())


def one(dtype: str, *shape: int | None) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), ())


def test_random_inputs_are_seeded_and_of_the_right_kind() -> None:
    images = random_inputs(FIRST, FIRST, 64, 0)[0]
    assert images.shape == (64, 3, 8, 8)
    assert images.dtype == np.float32
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1
    np.testing.assert_array_equal(images, random_inputs(FIRST, FIRST, 64, 0)[0])
    assert not np.array_equal(images, random_inputs(FIRST, FIRST, 64, 1)[0])
    ids, mask = random_inputs(TEXT, TEXT, 16, 0)
    assert ids.dtype == mask.dtype == np.int64
    assert set(np.unique(mask)) == {0, 1}
    assert mask[:, 0].all()


def test_a_free_side_is_taken_from_the_other_model_or_asked_for() -> None:
    assert random_inputs(one("float32", None, None), one("float32", None, 5), 2, 0)[0].shape == (2, 5)
    with pytest.raises(ConfigError, match=r"input 'x' takes any size along axis 1; give inputs .* --inputs"):
        random_inputs(one("float32", None, None), one("float32", None, None), 2, 0)
    with pytest.raises(ConfigError, match="along axis 1"):
        random_inputs(one("float32", None, None), one("float32", None, 5, 5), 2, 0)


def test_channels_first_become_channels_last_and_that_is_said() -> None:
    inputs = random_inputs(FIRST, LAST, 2, 0)
    fitted, notes = fitting_inputs(inputs, FIRST, LAST)
    np.testing.assert_array_equal(fitted[0], np.transpose(inputs[0], (0, 2, 3, 1)))
    assert notes == ["B's input 'y' is given with its axes in the order (0, 2, 3, 1)"]
    back, _ = fitting_inputs(fitted, LAST, FIRST)
    np.testing.assert_array_equal(back[0], inputs[0])


def test_a_file_that_turns_its_axes_itself_gets_them_as_they_are() -> None:
    turning = Signature((TensorSpec("x", "float32", (1, 8, 8, 3), (0, 2, 3, 1)),), ())
    inputs = random_inputs(turning, turning, 2, 0)
    assert inputs[0].shape == (2, 3, 8, 8)
    fitted, notes = fitting_inputs(inputs, turning, FIRST)
    assert fitted[0].shape == (2, 3, 8, 8)
    assert notes == []


def test_inputs_of_the_same_names_go_to_each_other() -> None:
    swapped = Signature((TensorSpec("mask", "int32", (1, 7)), TensorSpec("ids", "int32", (1, 7))), ())
    inputs = (np.zeros((2, 7), np.int64), np.ones((2, 7), np.int64))
    fitted, _ = fitting_inputs(inputs, TEXT, swapped)
    assert [int(each[0, 0]) for each in fitted] == [1, 0]
    assert fitted[0].dtype == np.int32


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TEXT, r"A takes 1 inputs \(x\), B takes 2 \(ids, mask\)"),
        (
            one("float32", None, 3, 9, 9),
            r"B's input 'x' takes float32 of shape \(any, 3, 9, 9\), A's takes float32",
        ),
        (one("int64", None, 3, 8, 8), "B's input 'x' takes int64 of shape"),
        (one("float32", None, 192), r"of shape \(any, 192\)"),
    ],
)
def test_models_that_take_something_else_are_refused(target: Signature, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fitting_inputs(random_inputs(FIRST, FIRST, 2, 0), FIRST, target)


def test_outputs_are_turned_or_refused() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 8, 8))
    fitted, notes = fit_outputs((maps,), (np.transpose(maps, (0, 2, 3, 1)),))
    np.testing.assert_array_equal(fitted[0], maps)
    assert notes == ["B's output 0 is compared with its axes in the order (0, 3, 1, 2)"]
    with pytest.raises(ConfigError, match="A gives 1 outputs, B gives 2"):
        fit_outputs((maps,), (maps, maps))
    with pytest.raises(ConfigError, match=r"output 0 of A has the shape \(2, 3, 8, 8\), that of B \(2, 5\)"):
        fit_outputs((maps,), (np.zeros((2, 5)),))


def save(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def test_arrays_are_read_and_turned_into_the_inputs_type(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", np.ones((4, 3, 8, 8)))
    assert read_inputs([path], FIRST)[0].dtype == np.float32


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "x.npy", np.ones((4, 7), np.int64))
    short = save(tmp_path / "s.npy", np.ones((3, 7), np.int64))
    for paths, signature, message in (
        ([good], TEXT, r"1 files were given for 2 inputs \(ids, mask\)"),
        ([good, short], TEXT, r"differ in their samples: \[4, 3\]"),
        ([good], FIRST, r"has the shape \(4, 7\); input 'x' takes \(any, 3, 8, 8\), samples first"),
        ([good], one("float32", None, 7), "holds int64; input 'x' takes float32"),
        ([save(tmp_path / "e.npy", np.ones((0, 7)))], one("float32", None, 7), "holds no samples"),
        (
            [save(tmp_path / "b.npy", np.full((2, 7), 300))],
            one("int8", None, 7),
            "does not hold the numbers given",
        ),
        ([tmp_path / "gone.npy"], FIRST, "can't be read as an array of numbers"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_inputs(paths, signature)


def test_pickled_arrays_and_archives_are_refused(tmp_path: Path) -> None:
    objects = tmp_path / "o.npy"
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"o\.npy' can't be read as an array of numbers"):
        read_inputs([objects], FIRST)
    several = tmp_path / "s.npz"
    np.savez(several, a=np.ones(3))
    with pytest.raises(ConfigError, match="holds several arrays"):
        read_inputs([several], FIRST)
    broken = tmp_path / "t.npy"
    broken.write_bytes(objects.read_bytes()[:20])
    with pytest.raises(ConfigError, match="can't be read as an array of numbers"):
        read_inputs([broken], FIRST)
