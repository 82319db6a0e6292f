"""Hardware, versions and memory, as far as they do not depend on the machine."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from hydrapress import environment
from hydrapress.environment import Hardware, hardware, load_average, read_cpuinfo, versions
from hydrapress.measure import memory
from hydrapress.measure.memory import MemoryWatch

X86 = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu sse4_2 avx2 avx512_vnni

processor\t: 1
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"

MACHINE = Hardware("Some CPU", ("avx2",), 4, 8, 16_000_000_000, "Linux 6 x86_64")


def test_x86_cpuinfo() -> None:
    assert read_cpuinfo(X86) == ("Some Processor 9000", frozenset({"fpu", "sse4_2", "avx2", "avx512_vnni"}))


def test_arm_cpuinfo_has_no_name() -> None:
    assert read_cpuinfo(ARM) == ("", frozenset({"fp", "asimd", "asimddp"}))


def test_this_machine() -> None:
    found = hardware()
    assert found.cpu
    assert 1 <= found.physical_cores <= found.logical_cores
    assert found.memory_bytes > 100e6
    assert hardware() is found


def test_cpuinfo_is_asked_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = types.ModuleType("cpuinfo")
    fake.get_cpu_info = lambda: {"brand_raw": "Fake M9", "flags": ["avx2"]}  # type: ignore[attr-defined]
    monkeypatch.setattr(environment, "_CPUINFO", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "cpuinfo", fake)
    found = hardware.__wrapped__()
    assert (found.cpu, found.isa) == ("Fake M9", ("avx2",))


@pytest.mark.parametrize(
    ("flag", "fast"), [("avx512_vnni", True), ("asimddp", True), ("avx2", False), ("avx512f", False)]
)
def test_int8_needs_dot_products(flag: str, fast: bool) -> None:
    assert replace(MACHINE, isa=(flag,)).multiplies_int8 is fast


def test_the_fingerprint_tells_machines_apart_but_not_updates() -> None:
    assert MACHINE.fingerprint() == replace(MACHINE, os="Linux 7 x86_64").fingerprint()
    assert MACHINE.fingerprint() != replace(MACHINE, cpu="Other").fingerprint()
    assert MACHINE.fingerprint() != replace(MACHINE, physical_cores=2).fingerprint()
    assert len(MACHINE.fingerprint()) == 16


def test_accelerators_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("pynvml")
    names = ["GPU A", b"GPU B"]
    calls = {
        "NVMLError": RuntimeError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: names[handle],
    }
    for name, value in calls.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert hardware.__wrapped__().accelerators == ("GPU A", "GPU B")

    def no_driver() -> None:
        raise RuntimeError("driver not loaded")

    monkeypatch.setattr(fake, "nvmlInit", no_driver)
    assert hardware.__wrapped__().accelerators == ()


def test_versions_name_what_is_installed() -> None:
    assert {"python", "hydrapress", "numpy", "torch"} <= set(versions())


def test_load_average_is_a_number() -> None:
    assert load_average() >= 0


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from hydrapress.environment import hardware, versions; hardware(); versions();"
        "import hydrapress.measure.process, hydrapress_backends, hydrapress_backends.stages;"
        "hydrapress_backends.hydrapress_backends();"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'mlflow', 'ai_edge_litert', 'scipy', 'cpuinfo'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_memory_above_the_beginning_is_seen() -> None:
    watch = MemoryWatch()
    block = bytearray(50_000_000)
    del block
    process, above = watch.peaks()
    assert process > above
    if Path("/proc/self/clear_refs").exists():
        assert above >= 45_000_000


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR_PEAK", tmp_path / "none" / "none")
    watch = MemoryWatch()
    kept = bytearray(30_000_000)
    process, above = watch.peaks()
    assert process >= above >= 25_000_000
    assert kept
