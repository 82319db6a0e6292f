"""Reports on stdout."""

from __future__ import annotations

import pytest

import hydrapress
from hydrapress.artifacts import Report
from hydrapress.errors import ConfigError
from hydrapress.table import render_report


def test_what_reads_a_pipe_gets_whole_titles_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    title, note = "Stages (" + "some.override=1 " * 20 + ")", "a reason " * 40
    render_report(Report(title, [{"stage": "train"}], [note]))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [title, "stage", "train", f"- {note}".rstrip()]


def test_a_model_that_was_not_measured_keeps_its_row_short(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "tflite", "backend": "litert-cpu", "threads": 1, "batch_size": 8, "metric": "accuracy"}
    problem = "input 'x' is fixed to batch size 1, not 8"
    report = Report("Benchmark", [row | {"verdict": "not measured", "problem": problem}])
    render_report(report)
    out = capsys.readouterr().out
    assert "not measured" in out
    assert problem not in out  # the report's notes tell why


def test_each_scenario_shows_its_headline(capsys: pytest.CaptureFixture[str]) -> None:
    common = {"model": "onnx", "threads": 1, "batch_size": 8, "metric": "accuracy", "throughput_per_s": 5.0}
    single = common | {"backend": "a", "scenario": "single_stream", "latency_ms_p90": 1.25}
    offline = common | {
        "backend": "b",
        "scenario": "offline",
        "throughput_per_s": 1234.0,
        "throughput_per_s_ci_low": 1200.0,
        "throughput_per_s_ci_high": 1300.0,
    }
    render_report(Report("Benchmark", [single, offline]))
    head, first, second = capsys.readouterr().out.splitlines()[1:]
    assert all(title in head for title in ("scenario", "p90 ms", "samples/s [95 %]"))
    assert "1.2500" in first
    assert "5" not in first.replace("1.2500", "")
    assert "1,234 [1,200, 1,300]" in second
    render_report(Report("Benchmark", [offline | {"energy_mj_per_query": 2.5}]))
    out = capsys.readouterr().out
    assert "p90 ms" not in out
    assert "scenario" not in out
    assert "mJ/query" in out


def test_overrides_are_a_list() -> None:
    with pytest.raises(
        ConfigError, match=r"overrides is the string 'seed=3'; give a list of strings: \['seed"
    ):
        hydrapress.run("seed=3")
