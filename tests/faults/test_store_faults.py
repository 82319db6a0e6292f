"""Whatever kills a process or refuses a write, the store holds whole entries alone."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hydrapress.errors import ModelError, StoreError
from hydrapress.store import Claim, Entry, Store
from hydrapress.store import local as store_module

KEY = hashlib.sha256(b"one").hexdigest()
FILES = ("architecture.json", "weights.bin", "sub/invariants.json")

# Kills itself with signal 9 at the n-th line of hydrapress that runs from the claim on;
# without n it counts the lines.
PUT = """
import os, signal, sys
from hydrapress.store import Store
root, key, text, kill_at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
lines = 0

def count(frame, event, argument):
    global lines
    if "hydrapress" not in frame.f_code.co_filename and frame.f_code.co_name != "write":
        return None
    if event == "line":
        lines += 1
        if lines == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return count

def write(folder):
    (folder / "sub").mkdir()
    for name in ("architecture.json", "weights.bin", "sub/invariants.json"):
        with (folder / name).open("w") as file:
            for _ in range(5):
                file.write(text * 1000)
                file.flush()
    return {"accuracy": 0.5}

store = Store(root)
sys.settrace(count)
with store.claim(key) as claim:
    (claim.scratch / "epoch").write_text(text)
    claim.put(write, stage="s", format="torch", seconds=lambda: 1.0, label="l")
sys.settrace(None)
print(lines)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def text_of(entry: Entry) -> str:
    """Give the one letter that all files of an entry are made of."""
    letters = {letter for name in FILES for letter in (entry.folder / name).read_text()}
    assert len(letters) == 1, "a mixed entry"
    assert all((entry.folder / name).stat().st_size == 5000 for name in FILES)
    return letters.pop()


def put(claim: Claim, write: Callable[[Path], Mapping[str, float]]) -> Entry:
    return claim.put(write, stage="s", format="torch", seconds=lambda: 1.0, label="prune")


def write_letters(folder: Path) -> Mapping[str, float]:
    (folder / "sub").mkdir()
    for name in FILES:
        (folder / name).write_text("z" * 5000)
    return {}


def fail_on_warning(text: str) -> None:
    pytest.fail(text)


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_killed_at_20_random_moments_of_a_put_there_is_a_whole_entry_or_none(
    tmp_path: Path, replacing: bool
) -> None:
    counted, _ = child(PUT, tmp_path / "count", KEY, "a", 0).communicate(timeout=60)
    outcomes = set()
    for moment in random.Random(7).sample(range(1, int(counted) + 1), 20):
        store = Store(tmp_path / str(moment), on_warning=fail_on_warning)
        if replacing:
            child(PUT, store.root, KEY, "a", 0).communicate(timeout=60)
        killed = child(PUT, store.root, KEY, "b", moment)
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        entry = store.get(KEY)
        outcomes.add(text_of(entry) if entry else None)
        assert all(problems == [] for _, problems in store.verify())
        with store.claim(KEY, on_wait=lambda: pytest.fail("the dead still hold the key")) as claim:
            assert claim.entry == entry
            if entry is None:
                entry = put(claim, write_letters)
        assert store.get(KEY) == entry
        assert [path.name for path in store.tmp.glob("*")] == []
    assert outcomes >= ({"a"} if replacing else {None})


CLAIM = """
import sys, pathlib
from hydrapress.store import Store
root, key, log = sys.argv[1:4]
print("ready", flush=True)
sys.stdin.readline()

def write(folder):
    with open(log, "a") as file:
        file.write("computed\\n")
    (folder / "value.json").write_text("1")
    return {}

with Store(root).claim(key) as claim:
    entry = claim.entry or claim.put(write, stage="s", format="t", seconds=lambda: 0.0, label="l")
print(entry.created, (entry.folder / "value.json").read_text())
"""


def test_of_four_processes_that_need_one_key_exactly_one_computes(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    children = [child(CLAIM, tmp_path / "store", KEY, log) for _ in range(4)]
    for each in children:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    answers = {each.communicate("go\n", timeout=60) for each in children}
    assert log.read_text() == "computed\n"
    assert len(answers) == 1
    assert answers.pop()[0].endswith(" 1\n")


def test_of_four_threads_that_need_one_key_exactly_one_computes(tmp_path: Path) -> None:
    store, computed, start = Store(tmp_path), [], threading.Barrier(4)

    def run() -> None:
        start.wait()
        with store.claim(KEY) as claim:
            if claim.entry is None:
                computed.append(put(claim, write_letters))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1


HOLD = """
import os, subprocess, sys
from hydrapress.store import Store
root, key, way = sys.argv[1:4]
with Store(root).claim(key) as claim:
    (claim.scratch / "epoch_3").write_text("resume")
    (Store(root).tmp / f"{key}.draft").mkdir(parents=True)
    if way == "fork":
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.write(tell, b"!")
            sys.stdin.read()
            os._exit(0)
        os.read(ready, 1)
    if way == "spawn":
        subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["alone", "fork", "spawn"])
def test_a_killed_holder_lets_go_even_if_its_children_live_on(tmp_path: Path, way: str) -> None:
    store = Store(tmp_path, on_warning=fail_on_warning)
    holder = child(HOLD, tmp_path, KEY, way)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with store.locks.hold_if_free(KEY) as held:
        assert not held
    holder.kill()
    holder.wait(timeout=60)
    try:
        with store.claim(KEY, on_wait=lambda: pytest.fail("the dead still hold the key")) as claim:
            assert (claim.scratch / "epoch_3").read_text() == "resume"
            assert list(store.tmp.iterdir()) == []
            put(claim, write_letters)
        assert not (store.scratch / KEY).exists()
    finally:
        holder.communicate(timeout=60)  # closes their standard input, which ends the children


WAIT = """
import sys
from hydrapress.store import Store
with Store(sys.argv[1]).claim(sys.argv[2], on_wait=lambda: print("waiting", flush=True)):
    print("got it", flush=True)
"""


def test_waiting_is_told_once_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with Store(tmp_path).claim(KEY):
        waiter = child(WAIT, tmp_path, KEY)
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        waiter.send_signal(signal.SIGINT)
        out, err = waiter.communicate(timeout=60)
    assert out == ""
    assert "KeyboardInterrupt" in err


def test_waiting_ends_when_the_holder_lets_go(tmp_path: Path) -> None:
    with Store(tmp_path).claim(KEY):
        waiter = child(WAIT, tmp_path, KEY)
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
    assert waiter.communicate(timeout=60)[0] == "got it\n"


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def library_without_space(folder: Path) -> Mapping[str, float]:
    """Fail as safetensors does: an error of its own that only quotes the system's."""
    (folder / "weights.safetensors").write_bytes(b"half")
    try:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    except RuntimeError as error:
        raise ModelError(f"could not be saved: {error}") from error


def write_without_space(folder: Path) -> Mapping[str, float]:
    (folder / "weights.bin").write_bytes(b"half")
    no_space()
    return {}


def _check_refused(store: Store, write: Callable[[Path], Mapping[str, float]]) -> None:
    with store.claim(KEY) as claim:
        (claim.scratch / "epoch_1").write_text("resume")
        with pytest.raises(
            StoreError,
            match=r"can't store the result of 'prune' at '.*tmp.*': .*No space left on device.*"
            r"\([\d,]+ bytes free there\).*hydrapress store gc.*store\.root=PATH",
        ):
            put(claim, write)
    assert list(store.tmp.iterdir()) == []
    assert (store.scratch / KEY / "epoch_1").read_text() == "resume"


@pytest.mark.parametrize("write", [write_without_space, library_without_space])
def test_no_space_while_the_artifact_is_written(
    tmp_path: Path, write: Callable[[Path], Mapping[str, float]]
) -> None:
    store = Store(tmp_path, on_warning=fail_on_warning)
    _check_refused(store, write)
    assert store.get(KEY) is None
    with store.claim(KEY) as claim:
        assert put(claim, write_letters) == store.get(KEY)


@pytest.mark.parametrize("where", ["sync_tree", "sync_path"])
def test_no_space_while_an_entry_is_replaced_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store = Store(tmp_path, on_warning=fail_on_warning)
    with store.claim(KEY) as claim:
        old = put(claim, write_letters)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, where, no_space)
        _check_refused(store, write_letters)
    assert store.get(KEY) == old


LIMITED = """
import resource, signal, sys
from hydrapress.errors import StoreError
from hydrapress.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

def write(folder):
    (folder / "weights.bin").write_bytes(b"x" * 20_000)
    return {}

try:
    with Store(sys.argv[1]).claim(sys.argv[2]) as claim:
        claim.put(write, stage="s", format="t", seconds=lambda: 0.0, label="prune")
except StoreError as error:
    print(error)
"""


def test_a_write_that_the_system_really_refuses_is_a_store_error(tmp_path: Path) -> None:
    out, err = child(LIMITED, tmp_path, KEY).communicate(timeout=60)
    assert err == ""
    assert "can't store the result of 'prune' at" in out
    assert "File too large" in out
    store = Store(tmp_path, on_warning=fail_on_warning)
    assert store.get(KEY) is None
    assert list(store.tmp.iterdir()) == []


def test_a_place_that_can_not_be_a_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "store")
    problem = r"can't lock a key at '.*file/store/locks/.*Not a directory"
    with pytest.raises(StoreError, match=problem), store.claim(KEY):
        pass
    assert store.get(KEY) is None


def test_a_disk_that_can_not_be_read_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with store.claim(KEY) as claim:
        put(claim, write_letters)
        (claim.scratch / "x").touch()
    monkeypatch.setattr(store_module, "read_manifest", broken)
    with pytest.raises(StoreError, match=r"can't read an entry at '.*Input/output error"):
        store.get(KEY)
    with pytest.raises(StoreError, match=r"can't read an entry at '.*Input/output error"):
        list(store.entries())


@pytest.mark.parametrize("what", ["set a corrupt entry aside", "remove a folder"])
def test_a_folder_that_can_not_be_moved_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store = Store(tmp_path, on_warning=fail_on_warning)
    with store.claim(KEY) as claim:
        entry = put(claim, write_letters)
    (entry.folder / "weights.bin").write_text("corrupt")
    monkeypatch.setattr(Path, "rename", no_space)
    with pytest.raises(StoreError, match=rf"can't {what} at '.*No space left on device"):
        store.get(KEY) if what.startswith("set") else store.gc(older_than_days=-1)
