"""The report's page: whole in itself, safe with any text, small, and honest about what it leaves out."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest
from summaries import failed, summary, sweep

import hydrapress_reports.page as page_module
from hydrapress.errors import RegistryError
from hydrapress_registry.definition import Published, RatioKind
from hydrapress_reports import plotly_bundle as bundle_module
from hydrapress_reports.contents import Contents, Point
from hydrapress_reports.gather import contents_of
from hydrapress_reports.page import page
from hydrapress_reports.payload import DETAILED_JOBS

HOSTILE = "</script><img src=x onerror=\"alert('x')\"><!--{{data}}"


def point(**changes: Any) -> Point:
    given = Point(
        id="a/int8@onnxruntime-cpu",
        run=None,
        title="int8",
        pipeline="train → int8",
        model="int8",
        backend="onnxruntime-cpu",
        threads=1,
        batch_size=1,
        scenario="single_stream",
        format="onnx",
        metrics={"accuracy": 0.98, "size_bytes": 1000.0},
        command="hydrapress seed=0",
    )
    return dataclasses.replace(given, **changes)


def contents(*points: Point, **changes: Any) -> Contents:
    given = Contents(
        title="A report", subtitle="by hand", metric="accuracy", greater_is_better=True, points=points
    )
    return dataclasses.replace(given, **changes)


def scripts(text: str) -> list[tuple[str, str]]:
    """Give the attributes and the body of each script element, as a browser splits them."""
    return re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)


def data(text: str) -> Any:
    return json.loads(next(body for attributes, body in scripts(text) if 'id="data"' in attributes))


def packed(text: str, id_: str) -> bytes:
    body = next(body for attributes, body in scripts(text) if f'id="{id_}"' in attributes)
    return gzip.decompress(base64.b64decode(body))


def jobs(text: str) -> Any:
    return json.loads(packed(text, "jobs-data"))


def policy(text: str) -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert found is not None
    return found[1]


def digest(script: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def test_the_policy_allows_the_pages_own_scripts_and_nothing_from_any_network() -> None:
    text = page(contents_of([summary(0)], title="t", subtitle="s"))
    own = next(body for attributes, body in scripts(text) if not attributes)
    allowed = dict(part.strip().split(" ", 1) for part in policy(text).split(";"))
    assert allowed["default-src"] == "'none'"
    assert set(allowed["script-src"].split()) == {digest(own.encode()), digest(packed(text, "plotly-data"))}
    assert allowed["img-src"] == "data: blob:"
    assert "connect-src" not in allowed


def test_nothing_is_linked() -> None:
    text = page(contents_of(sweep(12), title="t", subtitle="s"))
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?[^"'#]""", markup)
    assert not re.findall(r"<(?:link|iframe|object|embed|base)\b|@import|url\(", markup)
    assert "http" not in markup.replace("http-equiv", "")


def test_a_hostile_text_stays_text_wherever_it_stands() -> None:
    bad = point(
        id=HOSTILE,
        title=HOSTILE,
        pipeline=HOSTILE,
        backend=HOSTILE,
        command=HOSTILE,
        verdict=HOSTILE,
        reasons=(HOSTILE,),
        problem=HOSTILE,
        hardware=HOSTILE,
        metrics={HOSTILE: 1.0},
    )
    job = summary(0, label=HOSTILE, error=HOSTILE, notes=(HOSTILE,))
    row = Published(method=HOSTILE, paper=HOSTILE, table="", network="", data="", note=HOSTILE)
    text = page(
        contents(
            bad,
            title=HOSTILE,
            subtitle=HOSTILE,
            metric=HOSTILE,
            runs=(job,),
            published=(row,),
            notes=(HOSTILE,),
        )
    )
    assert "<img" not in text
    assert "<!--" not in text
    assert [attributes.strip().partition("id=")[2] for attributes, _ in scripts(text)] == [
        '"data"',
        "",
        '"jobs-data"',
        '"plotly-data"',
    ]
    assert data(text)["points"]["id"] == [HOSTILE]
    assert HOSTILE in data(text)["strings"]
    assert jobs(text)[0]["label"] == HOSTILE
    assert "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(" in text


def test_a_text_that_looks_like_a_slot_of_the_template_is_not_filled() -> None:
    text = page(contents(point(), title="{{version}} {{script}}"), plotly=False)
    assert "<h1>{{version}} {{script}}</h1>" in text


@pytest.mark.parametrize("odd", ["\u2028\u2029", "Größe 大小 📦", "badly decoded \udcff", "\x00\x1b[31m"])
def test_odd_letters_come_through_and_the_file_is_utf_8(odd: str) -> None:
    text = page(contents(point(title=odd), title=odd, runs=(summary(0, label=odd),)), plotly=False)
    text.encode("utf-8")
    assert odd in data(text)["strings"]
    assert jobs(text)[0]["label"] == odd


def test_numbers_that_are_none_are_named_and_missing_ones_are_null() -> None:
    whole = point(id="1", metrics={"accuracy": 0.123456789, "size_bytes": 1000.0})
    broken = point(
        id="2", metrics={"accuracy": float("nan"), "latency_ms_p50": float("inf"), "speedup": -float("inf")}
    )
    metrics = data(page(contents(whole, broken), plotly=False))["metrics"]
    assert metrics["accuracy"] == [0.1234568, "nan"]
    assert metrics["size_bytes"] == [1000, None]
    assert metrics["latency_ms_p50"] == [None, "inf"]
    assert metrics["speedup"] == [None, "-inf"]


def test_points_are_columns_whose_texts_are_kept_once() -> None:
    text = page(contents(point(id="1"), point(id="2", reasons=("too small",), run=0)), plotly=False)
    columns, strings = data(text)["points"], data(text)["strings"]
    assert columns["id"] == ["1", "2"]
    assert [strings[index] for index in columns["backend"]] == ["onnxruntime-cpu"] * 2
    assert [strings[index] for index in columns["command"]] == ["hydrapress seed=0"] * 2
    assert strings.count("int8") == 1
    assert [strings[index] for index in columns["reasons"][1]] == ["too small"]
    assert columns["run"] == [None, 0]


def test_five_thousand_points_stay_small() -> None:
    points = [
        point(
            id=f"{index:032x}/int8@onnxruntime-cpu",
            metrics={f"metric_{n}": index / (n + 3) for n in range(20)},
        )
        for index in range(5000)
    ]
    assert len(page(contents(*points), plotly=False)) < 1_800_000


def test_jobs_carry_what_their_sections_show() -> None:
    runs = (summary(0), failed(1))
    first, second = jobs(page(contents(runs=runs), plotly=False))
    assert (first["state"], first["command"], first["seed"]) == ("FINISHED", runs[0].command, 0)
    train = first["stages"][0]
    assert (train["id"], train["use"], train["seconds"]) == ("train", "trainer/train", 31)
    assert train["metrics"]["size_bytes"] == runs[0].stages[0].metrics["size_bytes"]
    assert train["layers"][0] == ["features.0.weight", [6, 1, 5, 5], 150, 0, 32]
    assert [name for name, _, _ in train["curves"]] == ["train_loss", "val_accuracy"]
    assert first["stages"][2]["inputs"] == ["onnx"]
    assert first["measurements"][1]["verdict"] == runs[0].measurements[1].verdict
    assert first["hardware"]["cpu"] == "Examplecorp E-2000 @ 2.00GHz"
    assert first["versions"]["torch"] == "2.13.0"
    assert first["packages"][0]["commit"] == "1f" * 20
    assert (second["state"], second["error"]) == ("FAILED", runs[1].error)
    assert second["stages"][-1]["format"] == ""


def test_of_very_many_jobs_the_frontiers_and_the_failed_ones_are_kept_whole() -> None:
    count = DETAILED_JOBS + 40
    runs = [summary(seed) for seed in range(count)]
    runs[-2] = failed(count - 2)
    best = point(id="best", run=count - 1, metrics={"accuracy": 1.0, "size_bytes": 1.0})
    others = [point(id=str(run), run=run) for run in range(count - 2)]
    text = page(contents(*others, best, runs=tuple(runs)), plotly=False)
    written = jobs(text)
    assert len(written) == count
    assert sum(job["detailed"] for job in written) == DETAILED_JOBS == data(text)["detailed"]
    assert [job["detailed"] for job in written[-2:]] == [True, True]
    slim = next(job for job in written if not job["detailed"])
    assert slim["command"]
    assert slim["stages"]
    assert "config" not in slim
    assert "layers" not in slim["stages"][0]


def test_published_rows_say_what_their_ratio_counts() -> None:
    row = Published(
        method="Deep Compression",
        paper="Han et al., 2016",
        table="Table 1",
        network="LeNet-5",
        data="MNIST",
        error=0.74,
        ratio=39.0,
        kind=RatioKind.FORMAT,
    )
    (written,) = data(page(contents(published=(row,)), plotly=False))["published"]
    assert (written["ratio"], written["kind"], written["comparable"]) == (39, "format", False)


def test_the_headline_and_the_footer_are_there_without_any_script() -> None:
    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    text = page(contents_of([summary(0)], title="t", subtitle="s"), plotly=False, generated=when)
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "int8: 3.2x smaller" in markup
    assert "2026-01-02 03:04 UTC" in markup
    assert "<noscript>" in markup


def test_the_same_contents_give_the_same_page() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    given = contents_of(sweep(5), title="t", subtitle="s")
    assert page(given, generated=when) == page(given, generated=when)


def test_an_empty_report_is_a_page_too() -> None:
    text = page(contents(), plotly=False)
    assert "No model was measured." in text
    assert data(text)["points"]["id"] == []


def test_without_plotly_the_page_is_tiny_and_allows_no_script_of_it() -> None:
    text = page(contents(point()), plotly=False)
    assert len(text) < 150_000
    assert 'data-plotly="no"' in text
    assert len(re.findall("sha256-", policy(text))) == 1


def test_plotly_itself_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "plotly", raising=False)
    bundle_module.plotly_bundle.cache_clear()
    assert bundle_module.plotly_bundle().packed
    assert "plotly" not in sys.modules


@pytest.fixture
def no_bundle_yet() -> Any:
    bundle_module.plotly_bundle.cache_clear()
    yield
    bundle_module.plotly_bundle.cache_clear()


@pytest.mark.usefixtures("no_bundle_yet")
def test_a_missing_plotly_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "find_spec", lambda name: None)
    with pytest.raises(RegistryError, match="need plotly, which is not installed; install it: pip install"):
        page(contents())


@pytest.mark.usefixtures("no_bundle_yet")
def test_a_plotly_without_its_script_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(bundle_module, "_script_path", lambda: tmp_path / "plotly.min.js")
    with pytest.raises(RegistryError, match=r"plotly\.min\.js', which can't be read \(No such file"):
        page(contents())


def test_every_script_of_the_folder_is_part_of_the_page() -> None:
    folder = resources.files("hydrapress_reports").joinpath("assets")
    names = {each.name for each in folder.iterdir() if each.name.endswith(".js")}
    assert names == set(page_module._SCRIPTS)
