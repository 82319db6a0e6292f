"""Hardware, versions and memory, as far as they do not depend on the machine."""

from __future__ import annotations

import contextlib
import mmap
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from hydrapress import environment
from hydrapress.environment import (
    Hardware,
    hardware,
    load_average,
    machine_settings,
    read_cpuinfo,
    versions,
)
from hydrapress.measure import energy, memory
from hydrapress.measure.conditions import InterferenceWatch
from hydrapress.measure.energy import EnergyMeter, nvml_devices, rapl_packages
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
    with fresh_memory(50_000_000):
        pass
    process, above = watch.peaks()
    assert process > above
    if Path("/proc/self/clear_refs").exists():
        assert above >= 45_000_000


@contextlib.contextmanager
def fresh_memory(size_bytes: int) -> Iterator[None]:
    """Hold memory that the system has to give, not what the process had left over."""
    with mmap.mmap(-1, size_bytes) as kept:
        for place in range(0, size_bytes, mmap.PAGESIZE):
            kept[place] = 1
        yield


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR_PEAK", tmp_path / "none" / "none")
    watch = MemoryWatch()
    with fresh_memory(60_000_000):
        process, above = watch.peaks()
    assert process >= above >= 25_000_000


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", encoding="ascii")


def powercap(folder: Path, *, package_uj: int = 1_000_000) -> Path:
    """A tree as Linux has it: two packages, one with its cores below it, and the whole platform."""
    domains = {
        "intel-rapl:0": ("package-0", package_uj, 262_143_328_850),
        "intel-rapl:0:0": ("core", 400_000, 262_143_328_850),
        "intel-rapl:1": ("package-1", 5_000, 10_000),
        "intel-rapl:2": ("psys", 9_000_000, 10_000_000),
    }
    for domain, (name, value_uj, range_uj) in domains.items():
        write(folder / domain / "name", name)
        write(folder / domain / "energy_uj", value_uj)
        write(folder / domain / "max_energy_range_uj", range_uj)
    return folder


def test_energy_is_that_of_the_packages(tmp_path: Path) -> None:
    tree = powercap(tmp_path)
    meter = EnergyMeter(rapl_packages(tree))
    assert meter.sources == ("intel-rapl:0", "intel-rapl:1")
    meter.begin()
    write(tree / "intel-rapl:0" / "energy_uj", 1_250_000)
    write(tree / "intel-rapl:1" / "energy_uj", 1_000)  # it began anew at 10,000
    write(tree / "intel-rapl:2" / "energy_uj", 9_900_000)
    assert meter.end() == pytest.approx(250.0 + 6.0)


def test_energy_is_absent_where_nothing_counts_it(tmp_path: Path) -> None:
    meter = EnergyMeter(rapl_packages(tmp_path / "none"))
    meter.begin()
    assert (meter.sources, meter.end()) == ((), None)


def test_energy_is_absent_where_a_counter_can_not_be_read(tmp_path: Path) -> None:
    tree = powercap(tmp_path)
    packages = rapl_packages(tree)
    (tree / "intel-rapl:0" / "energy_uj").unlink()
    assert [package.name for package in rapl_packages(tree)] == ["intel-rapl:1"]
    # what vanishes in the middle leaves no part of a sum behind
    meter = EnergyMeter(packages)
    meter.begin()
    assert meter.end() is None


def fake_nvml(monkeypatch: pytest.MonkeyPatch, readings: list[int]) -> types.ModuleType:
    fake = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def read(handle: int) -> int:
        if not readings:
            raise NVMLError("not supported")
        return readings.pop(0)

    calls = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": read,
    }
    for name, value in calls.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_energy_of_a_device_that_this_process_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [5, 1000, 1700])
    maps = tmp_path / "maps"
    monkeypatch.setattr(energy, "_MAPS", maps)
    assert nvml_devices() == []
    maps.write_text("7f0 r-xp /usr/lib/libc.so.6\n", encoding="ascii")
    assert nvml_devices() == []
    maps.write_text("7f0 r-xp /usr/lib/libcuda.so.1\n", encoding="ascii")
    meter = EnergyMeter(nvml_devices())
    meter.begin()
    assert (meter.sources, meter.end()) == (("nvml:0",), 700.0)
    # the driver tells no more
    meter.begin()
    assert meter.end() is None


def test_a_device_that_counts_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, [])
    maps = tmp_path / "maps"
    maps.write_text("/usr/lib/libcuda.so.1", encoding="ascii")
    monkeypatch.setattr(energy, "_MAPS", maps)
    assert nvml_devices() == []


def test_settings_of_a_machine_that_tells(tmp_path: Path) -> None:
    for core, governor in enumerate(("powersave", "performance", "powersave")):
        write(tmp_path / "cpu" / f"cpu{core}" / "cpufreq" / "scaling_governor", governor)
    write(tmp_path / "cpu" / "intel_pstate" / "no_turbo", 1)
    (tmp_path / "node" / "node0").mkdir(parents=True)
    (tmp_path / "node" / "node1").mkdir()
    found = machine_settings(tmp_path)
    assert (found.governors, found.turbo, found.numa_nodes) == (("performance", "powersave"), False, 2)
    wanted = {"governor": "performance powersave", "turbo": "off", "numa_nodes": "2"}
    assert wanted.items() <= found.to_params().items()


@pytest.mark.parametrize(("boost", "turbo"), [("1", True), ("0", False), ("", None)])
def test_turbo_on_other_drivers(tmp_path: Path, boost: str, turbo: bool | None) -> None:
    write(tmp_path / "cpu" / "cpufreq" / "boost", boost)
    assert machine_settings(tmp_path).turbo is turbo


def test_settings_of_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    found = machine_settings(tmp_path)
    assert list(found.to_params()) == ["free_memory_bytes"]
    assert found.free_memory_bytes > 0


class Times(NamedTuple):
    """A machine's CPU times, as psutil gives them on Linux."""

    user: float
    system: float
    idle: float
    iowait: float
    steal: float
    guest: float


def test_what_others_did_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    # guests' time is in user's already; waiting is no work
    readings = iter([Times(10, 5, 100, 7, 1, 2), Times(14, 6, 101, 9, 2.5, 4)])
    clock, own = iter([50.0, 54.0]), iter([3.0, 4.0])
    monkeypatch.setattr("psutil.cpu_times", lambda: next(readings))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("time.process_time", lambda: next(own))
    seen = InterferenceWatch().end()
    monkeypatch.undo()
    assert (seen.wall_s, seen.own_s, seen.others_s, seen.steal_s) == (4.0, 1.0, 4.0, 1.5)
    assert (seen.others_cores, (seen + seen).steal_cores) == (1.0, 0.375)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a package whose code lies in it, under a name of its own."""
    package = tmp_path / "src" / f"pkg_{tmp_path.name.replace('-', '_')}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (tmp_path / ".gitignore").write_text("*.pyc\nsite-packages/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    environment.packages.cache_clear()
    return package


def about(package: Path, distribution: str = "no-such-dist") -> tuple[str, str | None, bool | None]:
    environment.packages.cache_clear()
    (found,) = environment.packages(((distribution, package.name),))
    return found.version, found.commit, found.dirty


def test_a_package_in_a_checkout_tells_its_commit(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert about(checkout) == ("unknown", head, False)
    (checkout / "cached.pyc").write_text("ignored")
    (checkout.parent / "beside.py").write_text("not its own")
    assert about(checkout) == ("unknown", head, False)
    (checkout / "more.py").write_text("x = 1\n")
    assert about(checkout) == ("unknown", head, True)
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "more")
    assert about(checkout) == ("unknown", git(checkout, "rev-parse", "HEAD"), False)
    (checkout / "__init__.py").write_text("changed = True\n")
    assert about(checkout)[2] is True


def test_it_is_found_out_once_a_process(checkout: Path) -> None:
    first = environment.packages((("no-such-dist", checkout.name),))
    (checkout / "more.py").write_text("x = 1\n")
    assert environment.packages((("no-such-dist", checkout.name),)) is first


def test_an_installation_below_a_checkout_is_none_of_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout.parents[1] / "site-packages" / f"{checkout.name}_installed"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(installed.parent))
    assert about(installed, "pytest") == (pytest.__version__, None, False)


def test_a_checkout_without_git_is_not_called_clean(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment.subprocess, "run", missing)
    assert about(checkout) == ("unknown", None, None)


def test_a_git_that_hangs_is_not_waited_for(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], *, timeout: float, **options: object) -> None:
        assert timeout <= 10
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(environment.subprocess, "run", hangs)
    assert about(checkout) == ("unknown", None, None)


def test_a_version_that_says_dirty_is_dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda name: "1.2+g123.dirty")
    environment.packages.cache_clear()
    (found,) = environment.packages((("pytest", "no_such_module_at_all"),))
    assert (found.version, found.commit, found.dirty) == ("1.2+g123.dirty", None, True)
    environment.packages.cache_clear()
