"""The store gives back what was put in, byte for byte, or nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapress.companions.store import main
from hydrapress.errors import StoreError
from hydrapress.store import Entry, Store, open_store
from hydrapress.store.manifest import FileRecord, MalformedManifest, Manifest

KEY = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"two").hexdigest()
DAY_S = 86_400


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    return Store(tmp_path / "store", on_warning=warnings.append)


def write(folder: Path) -> Mapping[str, float]:
    (folder / "sub").mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (folder / "sub" / "about.json").write_text("{}")
    return {"accuracy": 0.98, "size_bytes": 2562}


def put(store: Store, key: str = KEY, write: Callable[[Path], Mapping[str, float]] = write) -> Entry:
    with store.claim(key) as claim:
        return claim.put(
            write, stage="prune: pruner/magnitude()", format="torch", seconds=lambda: 1.5, label="prune"
        )


def manifest_of(store: Store, key: str = KEY) -> Path:
    return store.root / key[:2] / key / "entry.json"


def test_what_is_put_is_got(store: Store) -> None:
    assert store.get(KEY) is None
    assert not store.has(KEY)
    entry = put(store)
    got = store.get(KEY)
    assert got == entry
    assert store.has(KEY)
    assert (entry.folder / "weights.bin").read_bytes() == bytes(range(256)) * 10
    assert entry.metrics == {"accuracy": 0.98, "size_bytes": 2562.0}
    assert (entry.stage, entry.format, entry.label) == ("prune: pruner/magnitude()", "torch", "prune")
    assert (entry.seconds, entry.size_bytes) == (1.5, 2562)
    assert datetime.fromisoformat(entry.created) <= datetime.now(UTC)


def test_the_folder_s_readers_may_read_every_file(store: Store) -> None:
    def write_for_the_owner_alone(folder: Path) -> Mapping[str, float]:
        metrics = write(folder)
        (folder / "weights.bin").chmod(0o600)
        return metrics

    entry = put(store, write=write_for_the_owner_alone)
    for file in ("weights.bin", "sub/about.json"):
        mode = (entry.folder / file).stat().st_mode & 0o777
        assert mode == entry.folder.stat().st_mode & 0o666


def test_nothing_but_the_entry_and_its_lock_stays(store: Store) -> None:
    with store.claim(KEY) as claim:
        (claim.scratch / "epoch_1").write_text("half")
        claim.put(write, stage="s", format="torch", seconds=lambda: 0.0, label="l")
    assert list(store.tmp.iterdir()) == list(store.scratch.iterdir()) == []
    assert not store.corrupt.exists()


def test_looking_makes_no_folder(store: Store) -> None:
    assert store.get(KEY) is None
    assert list(store.entries()) == []
    assert list(store.verify()) == []
    assert store.gc(older_than_days=0).freed_bytes == 0
    assert not store.root.exists()


def test_metrics_that_are_no_finite_numbers_survive(store: Store) -> None:
    put(store, write=lambda folder: {"loss": float("nan"), "speedup": float("inf")})
    json.loads(manifest_of(store).read_text(), parse_constant=pytest.fail)
    got = store.get(KEY)
    assert got is not None
    assert str(dict(got.metrics)) == "{'loss': nan, 'speedup': inf}"


def test_a_second_claim_finds_the_entry_and_may_replace_it(store: Store) -> None:
    put(store)

    def newer(folder: Path) -> Mapping[str, float]:
        (folder / "value.json").write_text("2")
        return {}

    with store.claim(KEY) as claim:
        assert claim.entry is not None
        entry = claim.put(newer, stage="s", format="report", seconds=lambda: 0.0, label="bench")
    assert store.get(KEY) == entry
    assert [path.name for path in entry.folder.iterdir()] == ["value.json"]
    assert list(store.tmp.iterdir()) == []


def test_a_stage_that_fails_leaves_its_scratch_and_nothing_else(store: Store) -> None:
    def fail(folder: Path) -> Mapping[str, float]:
        (folder / "half").write_text("half")
        raise ZeroDivisionError

    with store.claim(KEY) as claim:
        (claim.scratch / "epoch_1").write_text("resume here")
    with pytest.raises(ZeroDivisionError), store.claim(KEY) as claim:
        claim.put(fail, stage="s", format="torch", seconds=lambda: 0.0, label="l")
    assert store.get(KEY) is None
    assert list(store.tmp.iterdir()) == []
    with store.claim(KEY) as claim:
        assert (claim.scratch / "epoch_1").read_text() == "resume here"


def test_a_claim_removes_half_written_leftovers_of_its_own_key_alone(store: Store) -> None:
    mine, other = store.tmp / f"{KEY}.abc", store.tmp / f"{OTHER}.abc"
    mine.mkdir(parents=True)
    other.mkdir()
    with store.claim(KEY):
        assert not mine.exists()
    assert other.exists()


def flip_a_byte(entry: Path) -> None:
    path = entry / "artifact" / "weights.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def truncate(entry: Path) -> None:
    os.truncate(entry / "artifact" / "weights.bin", 2559)


def replace_by_link(entry: Path) -> None:
    path = entry / "artifact" / "weights.bin"
    path.rename(entry / "elsewhere.bin")
    path.symlink_to(entry / "elsewhere.bin")


def change_a_metric(entry: Path) -> None:
    path = entry / "entry.json"
    path.write_text(path.read_text().replace("0.98", "0.99"))


def take_another_entry(entry: Path) -> None:
    other = Store(entry.parents[1] / "elsewhere")
    put(other, OTHER)
    shutil.copy(manifest_of(other, OTHER), entry / "entry.json")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_a_byte, r"'weights.bin' has sha256 \w{12}\.\.\., not \w{12}\.\.\."),
    (truncate, "'weights.bin' has 2559 bytes, not 2560"),
    (lambda entry: (entry / "artifact" / "weights.bin").unlink(), "'weights.bin' is missing"),
    (lambda entry: (entry / "artifact" / "sub" / "about.json").unlink(), "'sub/about.json' is missing"),
    (lambda entry: shutil.rmtree(entry / "artifact"), "'weights.bin' is missing"),
    (lambda entry: (entry / "artifact" / "more.json").write_text("{}"), "'more.json' was added later"),
    (lambda entry: (entry / "artifact" / "away").symlink_to("/"), "'away' was added later"),
    (replace_by_link, "'weights.bin' is a link"),
    (change_a_metric, "'entry.json' was changed after it was written"),
    (take_another_entry, f"'entry.json' is about key {OTHER[:12]}, not {KEY[:12]}"),
    (lambda entry: (entry / "entry.json").unlink(), "'entry.json' is missing"),
    (lambda entry: (entry / "entry.json").write_text(""), "'entry.json' is no JSON"),
    (lambda entry: (entry / "entry.json").write_bytes(b"\xff\xfe"), "'entry.json' is no JSON"),
    (lambda entry: (entry / "entry.json").write_text("[" * 100_000), "'entry.json' is no JSON"),
    (lambda entry: (entry / "entry.json").write_text("[]"), "'entry.json' holds a list, not an object"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_a_damaged_entry_is_set_aside_with_a_warning_and_computed_again(
    store: Store, warnings: list[str], damage: Callable[[Path], object], problem: str
) -> None:
    put(store)
    damage(manifest_of(store).parent)
    assert store.get(KEY) is None
    assert len(warnings) == 1
    assert re.search(problem, warnings[0])
    assert f"store entry {KEY[:12]} is corrupt" in warnings[0]
    (aside,) = store.corrupt.iterdir()
    assert aside.name.startswith(f"{KEY}-")
    assert str(aside) in warnings[0]
    assert not store.has(KEY)
    put(store)
    assert store.get(KEY) is not None


def test_a_claim_also_sets_a_damaged_entry_aside(store: Store, warnings: list[str]) -> None:
    put(store)
    flip_a_byte(manifest_of(store).parent)
    with store.claim(KEY) as claim:
        assert claim.entry is None
    assert len(warnings) == 1


def test_a_damaged_entry_is_left_to_whoever_holds_the_key(store: Store, warnings: list[str]) -> None:
    put(store)
    with store.claim(KEY):
        flip_a_byte(manifest_of(store).parent)
        assert store.get(KEY) is None
    assert warnings == []
    assert manifest_of(store).exists()


def forge(store: Store, **changed: object) -> None:
    """Rewrite entry.json with a digest of its own that fits, as someone with bad intent would."""
    content = json.loads(manifest_of(store).read_text()) | changed
    content.pop("sha256")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest_of(store).write_text(json.dumps(content))


GOOD = {"size_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "C:/x", "a\\..\\x", "a\0b", "..", "sub/", "\ud800"],
)
def test_a_path_that_leaves_the_entry_is_refused(store: Store, warnings: list[str], name: str) -> None:
    put(store)
    forge(store, files={name: GOOD})
    assert store.get(KEY) is None
    assert "which is no plain path inside the entry" in warnings[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": None},
        {"metrics": {"accuracy": "high"}},
        {"metrics": {"accuracy": 10**400}},
        {"files": ["weights.bin"]},
        {"files": {"a": None}},
        {"files": {"a": {"size_bytes": 1}}},
        {"seconds": "long"},
    ],
)
def test_a_forged_manifest_that_garbles_a_part_is_refused(
    store: Store, warnings: list[str], changed: dict[str, object]
) -> None:
    put(store)
    forge(store, **changed)
    assert store.get(KEY) is None
    assert "'entry.json' lacks or garbles a part" in warnings[0]


@pytest.mark.parametrize(
    "record", [GOOD | {"size_bytes": -1}, GOOD | {"sha256": "x"}, GOOD | {"size_bytes": 1.5}]
)
def test_a_forged_file_record_is_refused(
    store: Store, warnings: list[str], record: dict[str, object]
) -> None:
    put(store)
    forge(store, files={"a": record})
    assert store.get(KEY) is None
    assert "'entry.json' has a file with size" in warnings[0]


@pytest.mark.parametrize("key", ["", "abc", "../" + "a" * 61, "A" * 64, "a" * 65])
def test_what_is_no_key_never_becomes_a_path(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="is no store key; a key has 64 hexadecimal digits"):
        store.get(key)
    with pytest.raises(StoreError, match="is no store key"), store.claim(key):
        pass


def test_links_and_odd_names_in_an_artifact_are_refused(store: Store) -> None:
    def linked(folder: Path) -> Mapping[str, float]:
        (folder / "model.onnx").symlink_to(__file__)
        return {}

    def odd(folder: Path) -> Mapping[str, float]:
        (folder / "a:b").touch()
        return {}

    with pytest.raises(StoreError, match=r"'model.onnx' in an artifact's folder is a link or a special file"):
        put(store, write=linked)
    with pytest.raises(StoreError, match="a file of the artifact is called 'a:b'; choose a plain name"):
        put(store, write=odd)
    assert store.get(KEY) is None


def test_verify_lists_problems_and_changes_nothing(store: Store) -> None:
    put(store)
    put(store, OTHER)
    truncate(manifest_of(store).parent)
    found = dict(store.verify())
    assert found == {KEY: ["'weights.bin' has 2559 bytes, not 2560"], OTHER: []}
    assert manifest_of(store).exists()


def test_entries_lists_what_has_a_sound_manifest(store: Store) -> None:
    put(store)
    put(store, OTHER)
    manifest_of(store).write_text("{}")
    (store.root / "no-entry.txt").touch()
    assert [entry.key for entry in store.entries()] == [OTHER]


def age(store: Store, key: str, days: float) -> None:
    when = time.time() - days * DAY_S
    os.utime(manifest_of(store, key), (when, when))


def leave_rubbish(store: Store) -> None:
    for folder in (
        store.tmp / f"{KEY}.abc",
        store.scratch / KEY,
        store.corrupt / f"{KEY}-20260101T000000.000000Z",
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 100)


def test_gc_removes_leftovers_and_keeps_entries(store: Store) -> None:
    put(store)
    leave_rubbish(store)
    (store.scratch / "notes.txt").write_text("not ours")
    report = store.gc()
    assert (report.temporary, report.scratch, report.corrupt, report.entries) == (1, 1, 1, ())
    assert report.freed_bytes == 300
    assert list(store.tmp.iterdir()) == list(store.corrupt.iterdir()) == []
    assert [path.name for path in store.scratch.iterdir()] == ["notes.txt"]
    assert store.get(KEY) is not None


def test_gc_removes_entries_not_used_for_long_except_those_kept(store: Store) -> None:
    third = "c" * 64
    for key in (KEY, OTHER, third):
        put(store, key)
        age(store, key, 10)
    store.get(third)  # using it makes it young
    report = store.gc(older_than_days=7, keep=[OTHER])
    assert report.entries == (KEY,)
    assert report.freed_bytes > 2562
    assert [entry.key for entry in store.entries()] == sorted([OTHER, third])


def test_a_dry_run_tells_the_same_and_touches_nothing(store: Store) -> None:
    put(store)
    age(store, KEY, 10)
    leave_rubbish(store)
    dry = store.gc(older_than_days=7, dry_run=True)
    assert store.has(KEY)
    assert dry == replace(store.gc(older_than_days=7), dry_run=True)
    assert not store.has(KEY)


def test_gc_leaves_keys_alone_that_someone_holds(store: Store) -> None:
    put(store)
    age(store, KEY, 10)
    with store.claim(KEY) as claim:
        age(store, KEY, 10)
        (claim.scratch / "epoch_1").touch()
        report = store.gc(older_than_days=7)
        assert (report.scratch, report.entries) == (0, ())
        assert (claim.scratch / "epoch_1").exists()


def test_relative_roots_do_not_follow_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    assert put(store).folder.is_relative_to(tmp_path / "store")


def test_open_store_takes_a_folder_a_file_url_and_refuses_unknown_protocols(tmp_path: Path) -> None:
    assert type(open_store(tmp_path)) is type(open_store(f"file://{tmp_path}")) is Store
    assert open_store(f"file://{tmp_path}").root == tmp_path
    with pytest.raises(
        StoreError, match=r"no file system for the store 'carrier-pigeon://coop'.*store\.root=PATH"
    ):
        open_store("carrier-pigeon://coop")


def test_the_default_warning_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    put(store)
    truncate(manifest_of(store).parent)
    with caplog.at_level(logging.WARNING, logger="hydrapress.store.local"):
        assert store.get(KEY) is None
    assert len(list(store.corrupt.iterdir())) == 1
    assert "is corrupt" in caplog.text


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.from_regex(r"\A[a-z0-9_ ]{1,8}(\.[a-z]{1,3})?(/[a-z0-9]{1,4}){0,2}\Z")
MANIFESTS = st.builds(
    Manifest,
    key=st.just(KEY),
    stage=TEXT,
    format=TEXT,
    metrics=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3),
    seconds=st.floats(allow_nan=False),
    created=TEXT,
    label=TEXT,
    files=st.dictionaries(
        NAME, st.builds(FileRecord, st.integers(0, 2**60), st.just(GOOD["sha256"])), max_size=3
    ),
)


@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    assert Manifest.from_text(manifest.to_text(), KEY) == manifest


@given(MANIFESTS, st.data())
def test_a_manifest_with_any_character_changed_is_refused_or_means_the_same(
    manifest: Manifest, data: st.DataObject
) -> None:
    text = manifest.to_text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from('09af"{},: \n')) + text[at + 1 :]
    try:
        read = Manifest.from_text(changed, KEY)
    except MalformedManifest:
        return
    assert read == manifest


@given(st.binary(max_size=50) | st.text(max_size=50))
def test_rubbish_is_never_a_manifest(text: str | bytes) -> None:
    with pytest.raises(MalformedManifest):
        Manifest.from_text(text, KEY)


def test_ls_prints_a_table_and_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store)
    put(store, OTHER, lambda folder: {"loss": float("nan")})
    assert main(["ls", "--root", str(store.root)]) == 0
    out, err = capsys.readouterr()
    assert KEY[:12] in out
    assert "0.9800" in out
    assert "2 entries, 2,562 bytes in" in err
    assert main(["ls", "--json", "--root", str(store.root)]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out, parse_constant=pytest.fail)}
    assert rows[KEY]["metrics"]["accuracy"] == 0.98
    assert rows[OTHER]["metrics"]["loss"] is None


def test_verify_exits_1_for_a_corrupt_entry_and_leaves_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store)
    assert main(["verify", "--root", str(store.root)]) == 0
    assert capsys.readouterr() == ("1 entries checked, 0 corrupt\n", "")
    truncate(manifest_of(store).parent)
    assert main(["verify", "--root", str(store.root)]) == 1
    out, err = capsys.readouterr()
    assert f"{KEY[:12]} is corrupt: 'weights.bin' has 2559 bytes, not 2560" in out
    assert "Nothing was changed" in err
    assert main(["verify", "--json", "--root", str(store.root)]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "checked": 1,
        "corrupt": {KEY: ["'weights.bin' has 2559 bytes, not 2560"]},
    }
    assert manifest_of(store).exists()


def test_gc_says_what_it_freed(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    leave_rubbish(store)
    monkeypatch.setenv("HYDRAPRESS_STORE", str(store.root))
    assert main(["gc", "--dry-run"]) == 0
    text = "300 bytes: 0 entries, 1 half-written folders, 1 scratch folders, 1 corrupt entries\n"
    assert capsys.readouterr().out == f"would free {text}"
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == f"freed {text}"
    age(store, KEY, 2)
    assert main(["gc", "--older-than", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == [KEY]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "week"])
def test_gc_refuses_what_is_no_number_of_days(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gc", f"--older-than={days}"])
    assert f"'{days}' is no number of days; give one that is 0 or more" in capsys.readouterr().err


def test_a_missing_store_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*missing'; run a pipeline first"):
        main(["ls", "--root", str(tmp_path / "missing")])
    assert not (tmp_path / "missing").exists()


def test_the_command_imports_nothing_heavy(store: Store) -> None:
    put(store)
    code = (
        "import sys; from hydrapress.companions.store import main;"
        f"main(['ls', '--root', {str(store.root)!r}]);"
        "sys.exit(str({'torch', 'mlflow', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "set()"
