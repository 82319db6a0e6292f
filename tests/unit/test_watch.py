"""The smartwatch's recordings: converted without unpickling, split by person, and their net."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits
from hydrapress_zoo import recordings as module
from hydrapress_zoo.commands import data
from hydrapress_zoo.har import HarCNN
from hydrapress_zoo.plain_pickle import PickleRefused, plain_values
from hydrapress_zoo.recordings import (
    Recordings,
    convert,
    default_path,
    read_recordings,
    recordings_of,
    write_recordings,
)
from hydrapress_zoo.watch import watch

SEGLEARN = pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None,
    reason="seglearn, whose recordings these are, is not installed",
)
GIVEN = Path("given.npy")


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


def npy(value: object) -> bytes:
    """Give an ``.npy`` file that holds a pickled value, as seglearn's does."""
    cell = np.empty((), object)
    cell[()] = value
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    # numpy's modules are named otherwise by numpy 2 than in the file that seglearn ships
    old = pickle.dumps(cell, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return stream.getvalue() + old


def plain(value: object) -> Any:
    return plain_values(npy(value)[128:])


def measured(**changes: object) -> dict[str, object]:
    """Give two short recordings as seglearn writes them."""
    found: dict[str, object] = {
        "X": [np.arange(12.0).reshape(2, 6), np.asfortranarray(np.arange(18.0).reshape(3, 6))],
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
        "y": np.array([3, 1]),
        "subject": np.array([7, 10]),
    }
    return found | changes


def test_a_pickle_of_arrays_is_read_as_what_it_holds() -> None:
    found = plain(measured())
    assert list(found) == ["X", "X_labels", "y", "subject"]
    assert found["X_labels"] == ["ax", "ay", "az", "wx", "wy", "wz"]
    np.testing.assert_array_equal(found["X"][1], np.arange(18.0).reshape(3, 6))
    np.testing.assert_array_equal(found["y"], [3, 1])
    assert plain(
        {"few": (1, 300, -5, 70000), "flags": [True, False, None], "one": [2], "no": ((), [], {})}
    ) == {
        "few": (1, 300, -5, 70000),
        "flags": [True, False, None],
        "one": [2],
        "no": ((), [], {}),
    }


def test_a_pickle_that_would_run_a_command_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    content = npy(Runs(f"touch '{trace}'"))
    with pytest.raises(ConfigError, match=r"'given.npy' is refused: it asks for 'posix system'"):
        recordings_of(content, GIVEN)
    assert not trace.exists()
    # it is what it claims to be
    assert b"cposix\nsystem\n" in content
    assert any(code.name == "REDUCE" for code, _, _ in pickletools.genops(content[128:]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["text"]), "calls 'numpy dtype'"),
        (1.5, "opcode BINFLOAT"),
        (np.array([1.0], ">f8"), "builds 'f8'"),
        (np.array([None]), "builds"),
        (2**70, "opcode LONG1"),
    ],
)
def test_what_is_no_part_of_plain_arrays_is_refused(value: object, message: str) -> None:
    with pytest.raises(PickleRefused, match=message):
        plain(value)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02", "it is not whole"),
        (b"", "it is not whole"),
        (b"\x80\x02.", "it is not whole"),
        (b"\x80\x02\x85.", "a value is missing"),
        (b"\x80\x02K\x01K\x02.", "it is not whole"),
        (b"\x80\x02h\x09.", "it is not whole"),
        (b"\x80\x02(K\x01e.", "it is not whole"),
        (b"\x80\x02K\x01(K\x01e.", "appends to '1'"),
        (b"\x80\x02K\x01(K\x01K\x01u.", "sets items of '1'"),
        (b"\x80\x02K\x01K\x01R.", "calls '1'"),
        (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "calls 'numpy ndarray'"),
        (b"\x80\x02cnumpy\nload\n.", "asks for 'numpy load'"),
        (b"\x80\x02cbuiltins\neval\n.", "asks for 'builtins eval'"),
    ],
)
def test_a_pickle_that_is_not_whole_or_names_other_things_is_refused(program: bytes, message: str) -> None:
    with pytest.raises(PickleRefused, match=message):
        plain_values(program)


def test_an_array_with_fewer_bytes_than_it_announces_is_refused() -> None:
    whole = npy(np.arange(4.0))[128:]
    sizes = [at for code, value, at in pickletools.genops(whole) if (code.name, value) == ("BININT1", 4)]
    shape = int(sizes[0] or 0)
    changed = whole[: shape + 1] + bytes([9]) + whole[shape + 2 :]
    with pytest.raises(PickleRefused, match=r"announces an array of f8 \(9,\) and holds 32 bytes"):
        plain_values(changed)


def test_recordings_are_taken_out_one_after_another() -> None:
    found = recordings_of(npy(measured()), GIVEN)
    assert found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples[:2], np.arange(12.0).reshape(2, 6))
    assert found.lengths.tolist() == [2, 3]
    assert found.labels.tolist() == [3, 1]
    assert found.people.tolist() == [7, 10]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (measured(X_labels=["x"]), r"its channels are \['x'\]"),
        (measured(X=[np.zeros((5, 3))]), r"shape \(5, 3\), expected \(samples, 6\)"),
        (measured(y=np.array([1])), r"2 recordings, labels \(1,\)"),
        ({"X": [], "y": []}, "holds no recordings"),
        ([1], "holds no recordings"),
    ],
)
def test_other_arrays_than_recordings_are_refused(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recordings_of(npy(value), GIVEN)


def test_a_file_that_is_no_npy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'given.npy' holds no recordings"):
        recordings_of(b"MZ" + bytes(300), GIVEN)


def test_only_the_published_file_is_interpreted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "watch_dataset.npy"
    path.write_bytes(npy(measured()))
    with pytest.raises(
        ConfigError, match=r"is not the file of seglearn 1.2.5 \(sha256 [0-9a-f]{64}, expected"
    ):
        convert(path)
    monkeypatch.setattr(module, "_LARGEST_BYTES", 100)
    with pytest.raises(ConfigError, match="more than 100 are not read"):
        convert(path)
    with pytest.raises(ConfigError, match=r"can't be read \(.*No such file.*pip install --no-deps seglearn"):
        convert(tmp_path / "none.npy")


def test_missing_recordings_are_answered_with_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "hydrapress" / "watch.npz"
    with pytest.raises(ConfigError, match=r"is not there; .*seglearn==1.2.5 && hydrapress data watch$"):
        watch()
    elsewhere = tmp_path / "else.npz"
    with pytest.raises(ConfigError, match=rf"hydrapress data watch --out {elsewhere}$"):
        watch(file=str(elsewhere))


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "watch.npz"
    path.write_bytes(b"PK not at all")
    with pytest.raises(ConfigError, match=r"is damaged .*write it again: hydrapress data watch"):
        read_recordings(path)
    np.savez(path, samples=np.array([Runs("true")], object))
    with pytest.raises(ConfigError, match=r"is damaged .*allow_pickle"):
        read_recordings(path)
    write_recordings(recordings_of(npy(measured()), GIVEN), path)
    with pytest.raises(ConfigError, match="holds other recordings than seglearn"):
        read_recordings(path)
    monkeypatch.setattr(module, "_LARGEST_BYTES", 100)
    with pytest.raises(ConfigError, match=r"is damaged .*more than 100 bytes"):
        read_recordings(path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = recordings_of(npy(measured()), GIVEN)
    with pytest.raises(ConfigError, match=r"can't be written .*give another --out"):
        write_recordings(found, blocked / "watch.npz")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "watch.npz"
    write_recordings(convert(), path)
    return path


@pytest.fixture(scope="module")
def splits(path: Path) -> Splits:
    return watch(file=str(path))


@SEGLEARN
def test_the_command_writes_what_the_data_set_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data(["watch"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{default_path()}\n"
    assert "140 recordings, 244,102 samples, 10 people, 7 exercises" in shown.err
    assert shown.err.endswith("use it: hydrapress data=watch model=har_cnn\n")
    assert [each.name for each in default_path().parent.iterdir()] == ["watch.npz"]
    out = tmp_path / "mine.npz"
    assert data(["watch", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["recordings"]) == (str(out), 140)
    assert read_recordings(out).digest() == read_recordings(default_path()).digest() == told["digest"]


@SEGLEARN
def test_five_people_are_the_test_and_one_chooses(path: Path, splits: Splits) -> None:
    assert {split.value: len(splits[split]) for split in Split} == {  # type: ignore[arg-type]
        "train": 3762,
        "calibration": 158,
        "validation": 369,
        "test": 4932,
    }
    for split in Split:
        inputs, labels = splits[split].tensors  # type: ignore[attr-defined]
        assert inputs.shape[1:] == (6, 100)
        assert inputs.dtype == torch.float32
        assert set(labels.tolist()) == set(range(7))


@SEGLEARN
def test_no_sample_is_in_two_splits(splits: Splits) -> None:
    samples = {
        split: {
            tuple(column)
            for window in splits[split].tensors[0].transpose(1, 2)  # type: ignore[attr-defined]
            for column in window[:, :3].tolist()
        }
        for split in (Split.CALIBRATION, Split.VALIDATION)
    }
    assert not samples[Split.CALIBRATION] & samples[Split.VALIDATION]


@SEGLEARN
def test_channels_are_normalized_by_what_is_trained_on(splits: Splits) -> None:
    trained = splits.train.tensors[0]  # type: ignore[attr-defined]
    assert trained.mean((0, 2)).abs().max() < 1e-4
    assert (trained.std((0, 2)) - 1).abs().max() < 1e-3
    tested = splits.test.tensors[0]  # type: ignore[attr-defined]
    assert (tested.std((0, 2)) - 1).abs().max() > 0.05


@SEGLEARN
def test_the_digest_is_that_of_samples_and_splits(path: Path, splits: Splits) -> None:
    assert watch(file=str(path)).digest == splits.digest
    others = [watch(file=str(path), **each) for each in ({"seed": 1}, {"held_out": 3}, {"step": 50})]
    assert len({splits.digest, *(each.digest for each in others)}) == 4


@SEGLEARN
def test_values_out_of_range_are_refused_together(path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        watch(file=str(path), window=2, step=3, held_out=9)
    assert refused.value.problems == (
        "data watch: window is 2; it must satisfy 4 <= window <= 236",
        "data watch: step is 3; it must satisfy 1 <= step <= 2",
        "data watch: held_out is 9; it must satisfy 1 <= held_out <= 5",
    )


@SEGLEARN
def test_changed_arrays_are_refused(path: Path, tmp_path: Path) -> None:
    found = read_recordings(path)
    labels = found.labels.copy()
    labels[0] += 1
    changed: Recordings = dataclasses.replace(found, labels=labels)
    write_recordings(changed, tmp_path / "changed.npz")
    with pytest.raises(ConfigError, match="holds other recordings"):
        watch(file=str(tmp_path / "changed.npz"))


def test_the_net_gives_a_logit_for_each_movement() -> None:
    net = HarCNN().eval()
    assert sum(each.numel() for each in net.parameters()) == 64_775
    assert net(torch.randn(3, 6, 100)).shape == (3, 7)
    assert HarCNN(in_channels=2, size=9, classes=4)(torch.randn(2, 2, 9)).shape == (2, 4)


def test_the_net_refuses_what_it_cannot_be_made_for() -> None:
    with pytest.raises(ConfigError, match=r"windows of 3 samples are too short.*\n.*dropout is 1;"):
        HarCNN(size=3, dropout=1.0)
