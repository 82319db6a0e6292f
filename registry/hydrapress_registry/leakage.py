"""Leakage: whether a run was measured on samples that it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from hydrapress.config import task_from
from hydrapress.errors import ConfigError, HydrapressError
from hydrapress.job import read_config
from hydrapress.plugins import installed_plugins
from hydrapress.summary import DataSummary
from hydrapress.task import Split, Splits

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["MOST_SHARED", "Leakage", "check_leakage", "shared_fraction"]

MOST_SHARED = 0.01
"""The largest fraction of test samples that may also occur in the training or validation split."""

_PROBE = 16
_BATCH = 256


@dataclass(frozen=True)
class Leakage:
    """What a check found.

    Attributes:
        problems: Why the runs can't be recorded.
        notes: What a reader of the record should know of the check.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_leakage(config: Mapping[str, Any], data: DataSummary) -> Leakage:
    """Make a run's data again and look for its test samples in the splits that it learned from.

    Only data sets that a plugin registers are made; a ``_target_`` is not imported.

    Args:
        config: The run's composed config.
        data: What the run says of its data.
    """
    if _has_target(config):
        return Leakage(
            notes=("test and training samples were not compared: the config names a callable of its own",)
        )
    try:
        splits = _splits(config)
    except (HydrapressError, OSError) as error:
        return Leakage((f"its data can't be made again to look for test samples in training: {error}",))
    if splits.digest != data.digest:
        return Leakage(
            (
                f"its data is not what is installed here: the run's '{data.name}' has the digest "
                f"{data.digest[:12]}, its config makes {splits.digest[:12]} here; record it where it ran",
            )
        )
    return _compare(config, splits, data)


def shared_fraction(tested: Dataset[Any], learned: Dataset[Any]) -> float:
    """Give the fraction of one data set's inputs that occur in another, bit for bit, 0..1."""
    known = set(_hashes(learned))
    found = [sample in known for sample in _hashes(tested)]
    return sum(found) / len(found) if found else 0.0


def _compare(config: Mapping[str, Any], splits: Splits, data: DataSummary) -> Leakage:
    problems, notes = [], []
    if _varies(splits.train):
        splits, without = _still(config, splits)
        if without:
            notes.append(
                f"training samples were compared with the test samples without '{without}', which draws them "
                "differently each time"
            )
    for split in (Split.TRAIN, Split.VALIDATION):
        if _varies(splits[split]):
            notes.append(
                f"the {split} samples change each time they are drawn, so test samples were not looked for "
                "among them: that the splits are apart is known by the data's digest alone"
            )
            continue
        share = shared_fraction(splits.test, splits[split])
        if share > MOST_SHARED:
            problems.append(
                f"measured on what it learned from: {share:.1%} of the test samples of '{data.name}' also "
                f"occur in its {split} split (at most {MOST_SHARED:.0%} may); use splits that are disjoint"
            )
        elif share > 0:
            notes.append(f"{share:.2%} of the test samples also occur in the {split} split")
    return Leakage(tuple(problems), tuple(notes))


def _still(config: Mapping[str, Any], splits: Splits) -> tuple[Splits, str]:
    """Give the same data with training samples that hold still, and the argument left out for it.

    An argument without which every split keeps its size and every other split its samples, bit
    for bit, only says how training samples are drawn.
    """
    args = dict(config["data"].get("args") or {})
    for name in args:
        fewer = {key: value for key, value in args.items() if key != name}
        try:
            still = _splits({**config, "data": {**config["data"], "args": fewer}})
        except (HydrapressError, OSError):
            continue  # it can't be left out
        if not _varies(still.train) and _same_but_training(still, splits):
            return still, name
    return splits, ""


def _same_but_training(one: Splits, other: Splits) -> bool:
    if any(len(one[split]) != len(other[split]) for split in Split):  # type: ignore[arg-type]  # no __len__
        return False
    kept = (Split.TEST, Split.VALIDATION, Split.CALIBRATION)
    return all(list(_hashes(one[split])) == list(_hashes(other[split])) for split in kept)


def _splits(config: Mapping[str, Any]) -> Splits:
    made = OmegaConf.create({"data": config.get("data", {}), "model": config.get("model", {})})
    try:
        return task_from(read_config(made), installed_plugins()).splits
    except TypeError as error:  # an argument that the data set does not take
        raise ConfigError(f"data.args: {error}") from error


def _has_target(config: Mapping[str, Any]) -> bool:
    return any(bool((config.get(part) or {}).get("_target_")) for part in ("data", "model"))


def _varies(data: Dataset[Any]) -> bool:
    """Tell whether the same items are drawn differently from one time to the next."""
    import torch

    count = min(_PROBE, len(data))  # type: ignore[arg-type]  # torch types no __len__
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(4):
            torch.manual_seed(seed)
            drawn.append([_digest(data[index]) for index in range(count)])
    return any(each != drawn[0] for each in drawn)


def _hashes(data: Dataset[Any]) -> Iterator[bytes]:
    count = len(data)  # type: ignore[arg-type]  # torch types no __len__
    together = getattr(data, "__getitems__", None)
    for start in range(0, count, _BATCH):
        indices = list(range(start, min(start + _BATCH, count)))
        for item in together(indices) if together else (data[index] for index in indices):
            yield _digest(item)


def _digest(item: Any) -> bytes:
    inputs = item[0]
    digest = hashlib.blake2b(digest_size=16)
    for tensor in inputs if isinstance(inputs, tuple | list) else (inputs,):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().data)
    return digest.digest()
