"""On an object store an entry is whole or absent, whoever else writes there."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from hydrapress.errors import StoreError
from hydrapress.store import Entry, open_store
from hydrapress.store.lease import Lease, LeaseTimes
from hydrapress.store.remote import RemoteStore

KEY = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"two").hexdigest()
FAST = LeaseTimes(beat_s=0.05, silence_s=0.5, poll_s=0.02)


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/remote"
        return
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    fs, base = fsspec.core.url_to_fs(place)
    if fs.exists(base):
        fs.rm(base, recursive=True)


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Callable[..., RemoteStore]:
    """Make a machine: a store on the same URL with a local folder of its own."""

    def make(name: str, warnings: list[str] | None = None) -> RemoteStore:
        warn = (warnings if warnings is not None else []).append
        return RemoteStore(url, cache=tmp_path / name, on_warning=warn, lease_times=FAST)

    return make


def writer(text: str) -> Callable[[Path], Mapping[str, float]]:
    def write(folder: Path) -> Mapping[str, float]:
        (folder / "sub").mkdir()
        (folder / "weights.bin").write_text(text * 1000)
        (folder / "sub" / "about.json").write_text(text)
        return {"accuracy": 0.98}

    return write


def put(store: RemoteStore, key: str = KEY, text: str = "a") -> Entry:
    with store.claim(key) as claim:
        return claim.put(writer(text), stage="s", format="torch", seconds=lambda: 1.0, label="l")


def files_at(store: RemoteStore) -> list[str]:
    fs, base = fsspec.core.url_to_fs(store.url)
    return sorted(path.removeprefix(base) for path in fs.find(base))


def test_another_machine_gets_what_one_has_put(machine: Callable[..., RemoteStore]) -> None:
    one, two = machine("one"), machine("two")
    assert two.get(KEY) is None
    assert not two.has(KEY)
    entry = put(one)
    assert two.has(KEY)
    got = two.get(KEY)
    assert got is not None
    assert got.metrics == entry.metrics
    assert got.folder != entry.folder
    assert (got.folder / "sub" / "about.json").read_text() == "a"
    with two.claim(KEY) as claim:
        assert claim.entry == got
    assert [e.key for e in two.entries()] == [KEY]
    assert list(two.verify()) == [(KEY, [])]
    assert not any("lease" in path for path in files_at(one))


def test_open_store_gives_one_for_a_url(url: str, workdir: Path) -> None:
    store = open_store("memory://somewhere")
    assert isinstance(store, RemoteStore)
    assert str(store) == "memory://somewhere"
    assert store.root.is_relative_to(workdir / ".hydrapress" / "cache")


def test_a_replaced_entry_is_replaced_everywhere_and_the_old_files_go(
    machine: Callable[..., RemoteStore],
) -> None:
    one, two = machine("one"), machine("two")
    put(one)
    assert two.get(KEY) is not None
    put(one, text="b")
    got = two.get(KEY)
    assert got is not None
    assert (got.folder / "sub" / "about.json").read_text() == "b"
    assert len(files_at(one)) == 3


def test_a_reader_during_a_replacement_gets_the_new_entry(
    machine: Callable[..., RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machine("one"), machine("two")
    put(one)
    replaced: list[bool] = []
    get_file = two._fs.get_file

    def replace_first(*args: Any, **options: Any) -> Any:
        if not replaced:
            replaced.append(True)
            put(one, text="b")
        return get_file(*args, **options)

    monkeypatch.setattr(two._fs, "get_file", replace_first)
    got = two.get(KEY)
    assert got is not None
    assert (got.folder / "weights.bin").read_text() == "b" * 1000
    assert (got.folder / "sub" / "about.json").read_text() == "b"


def test_a_corrupt_remote_file_is_set_aside_with_a_warning(machine: Callable[..., RemoteStore]) -> None:
    warnings: list[str] = []
    one, two = machine("one"), machine("two", warnings)
    put(one)
    fs, base = fsspec.core.url_to_fs(one.url)
    (path,) = (path for path in fs.find(base) if path.endswith("weights.bin"))
    fs.pipe_file(path, b"b" * 1000)
    ((_, problems),) = two.verify()
    assert problems[0].startswith("'weights.bin' has sha256")
    assert two.get(KEY) is None
    assert "is corrupt: 'weights.bin' has sha256" in warnings[0]
    assert not two.has(KEY)
    put(two)
    assert two.get(KEY) is not None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"attempt": "../x", "manifest": "{}"}', b'{"attempt": "a", "manifest": "{}"}']
)
def test_a_tampered_mark_is_set_aside(machine: Callable[..., RemoteStore], content: bytes) -> None:
    warnings: list[str] = []
    store = machine("one", warnings)
    put(store)
    fs, base = fsspec.core.url_to_fs(store.url)
    fs.pipe_file(f"{base}/{KEY[:2]}/{KEY}/entry.json", content)
    assert "'entry.json'" in dict(store.verify())[KEY][0]
    assert list(store.entries()) == []
    store.gc()
    assert store.get(KEY) is None
    assert "is corrupt: 'entry.json'" in warnings[0]


def test_a_corrupt_local_copy_is_brought_again(machine: Callable[..., RemoteStore]) -> None:
    warnings: list[str] = []
    store = machine("one", warnings)
    entry = put(store)
    (entry.folder / "weights.bin").write_text("x")
    got = store.get(KEY)
    assert got is not None
    assert (got.folder / "weights.bin").read_text() == "a" * 1000
    assert "'weights.bin' has 1 bytes, not 1000" in warnings[0]


def test_two_machines_compute_once(machine: Callable[..., RemoteStore]) -> None:
    computed, waited, inside = [], threading.Event(), threading.Event()

    def run(store: RemoteStore) -> None:
        with store.claim(KEY, on_wait=waited.set) as claim:
            if claim.entry is None:
                computed.append(store)
                inside.set()
                waited.wait(10)
                claim.put(writer("a"), stage="s", format="torch", seconds=lambda: 1.0, label="l")

    first = threading.Thread(target=run, args=(machine("one"),))
    first.start()
    assert inside.wait(10)
    run(machine("two"))
    first.join()
    assert len(computed) == 1
    assert waited.is_set()


def test_of_two_who_both_computed_one_counts(machine: Callable[..., RemoteStore]) -> None:
    one, two = machine("one"), machine("two")
    with one.claim(KEY) as claim:
        one._fs.rm_file(one._lease_path(KEY))  # as if this machine had been silent for long
        theirs = put(two, text="b")
        mine = claim.put(writer("a"), stage="s", format="torch", seconds=lambda: 1.0, label="l")
    assert (mine.folder / "weights.bin").read_text() == "b" * 1000
    assert mine.created == theirs.created
    assert len(files_at(one)) == 3


def test_the_lease_of_a_dead_holder_is_taken_over_and_a_living_ones_is_not(url: str) -> None:
    fs, base = fsspec.core.url_to_fs(url)
    fs.makedirs(base, exist_ok=True)
    path = f"{base}/lease.json"
    fs.pipe_file(path, b'{"owner": "dead", "beat": 3}')
    waits: list[str] = []
    with Lease(fs, path, FAST).hold(lambda: waits.append("told")):
        assert b"dead" not in fs.cat_file(path)
        done = threading.Event()

        def wait_for_it() -> None:
            with Lease(fs, path, FAST).hold():
                done.set()

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not done.wait(3 * FAST.silence_s)
    thread.join()
    assert done.is_set()
    assert waits == ["told"]
    assert not fs.exists(path)


def test_a_failed_upload_leaves_no_entry_and_is_made_up_for_without_computing(
    machine: Callable[..., RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one")

    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError("denied by the bucket's policy")

    with monkeypatch.context() as patch:
        patch.setattr(store._fs, "put_file", refuse)
        with pytest.raises(StoreError, match=r"can't upload an entry at .*denied by the bucket.*credentials"):
            put(store)
    assert not store.has(KEY)
    with store.claim(KEY) as claim:
        assert claim.entry is not None
    assert store.has(KEY)
    assert machine("two").get(KEY) is not None


def test_an_unreachable_store_is_a_store_error(
    machine: Callable[..., RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one")

    def fail(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(store._fs, "cat_file", fail)
    with (
        pytest.raises(StoreError, match=r"can't take a lease at .*ConnectionError: no route"),
        store.claim(KEY),
    ):
        pass


def test_gc_removes_old_entries_broken_uploads_and_what_was_set_aside(
    machine: Callable[..., RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one")
    put(store)
    put(store, OTHER)
    fs, base = fsspec.core.url_to_fs(store.url)
    for path in (f"{base}/{KEY[:2]}/{KEY}/brokenoff/weights.bin", f"{base}/corrupt/x.json"):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, b"x" * 100)
    dry = store.gc(dry_run=True)
    report = store.gc()
    assert (report.temporary, report.corrupt, report.entries, report.freed_bytes) == (1, 1, (), 200)
    assert (dry.temporary, dry.corrupt, dry.freed_bytes) == (1, 1, 200)
    assert list(store.verify()) == [(key, []) for key in sorted([KEY, OTHER])]
    assert store.gc(older_than_days=-1, keep=[OTHER]).entries == (KEY,)
    assert [entry.key for entry in store.entries()] == [OTHER]
    with store.claim(OTHER):
        assert store.gc(older_than_days=-1).entries == ()


def test_a_mark_names_its_attempt(machine: Callable[..., RemoteStore]) -> None:
    store = machine("one")
    put(store)
    fs, base = fsspec.core.url_to_fs(store.url)
    mark = json.loads(fs.cat_file(f"{base}/{KEY[:2]}/{KEY}/entry.json"))
    assert fs.exists(f"{base}/{KEY[:2]}/{KEY}/{mark['attempt']}/weights.bin")
