"""Environment: the circumstances of a measurement: hardware, library versions, load.

Imports none of the libraries whose versions it tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from .summary.model import PackageSummary

__all__ = ["Hardware", "Settings", "hardware", "load_average", "machine_settings", "packages", "versions"]

_ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8",
    "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""The instructions that decide how fast a network runs, x86 first, then Arm."""

_INT8_DOT_PRODUCT = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})

_LIBRARIES = (
    "hydrapress", "torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnxslim",
    "ai-edge-litert", "litert-torch", "ai-edge-quantizer", "openvino", "nncf", "executorch", "mlflow",
    "hydra-core",
)  # fmt: skip

_GIT_TIMEOUT_S = 5.0

_CPUINFO = Path("/proc/cpuinfo")
_SYSTEM = Path("/sys/devices/system")


@dataclass(frozen=True)
class Hardware:
    """The machine, as far as it decides a latency.

    Attributes:
        cpu: The processor's name.
        isa: The instructions that matter, of those it has.
        physical_cores: Cores without hyper-threads.
        logical_cores: Cores that the operating system schedules on.
        memory_bytes: All of its memory.
        os: System, release and architecture.
        accelerators: Names of NVIDIA devices, when ``nvidia-ml-py`` is installed.
    """

    cpu: str
    isa: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    memory_bytes: int
    os: str
    accelerators: tuple[str, ...] = ()

    @property
    def multiplies_int8(self) -> bool:
        """Whether it has instructions for int8 dot products, which make int8 models fast."""
        return bool(_INT8_DOT_PRODUCT & set(self.isa))

    def fingerprint(self) -> str:
        """Give 16 hexadecimal digits that are equal where latencies may be compared.

        The operating system's release stays out: an update of it is no other machine.
        """
        facts = {k: v for k, v in asdict(self).items() if k != "os"} | {"machine": platform.machine()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Write it as plain JSON, with its fingerprint."""
        return asdict(self) | {"isa": list(self.isa), "fingerprint": self.fingerprint()}


@dataclass(frozen=True)
class Settings:
    """What the machine is set to, as far as the system tells; it may change from hour to hour.

    Attributes:
        governors: Names of the CPU frequency governors in use, such as ``performance``.
        turbo: Whether cores may run above their nominal frequency; ``None`` where it isn't told.
        numa_nodes: Memories that are nearer to some cores than to others; ``None`` where it
            isn't told.
        free_memory_bytes: Memory that programs could still take.
    """

    governors: tuple[str, ...]
    turbo: bool | None
    numa_nodes: int | None
    free_memory_bytes: int

    def to_params(self) -> dict[str, str]:
        """Write as text what is known."""
        known = {"free_memory_bytes": str(self.free_memory_bytes)}
        if self.governors:
            known["governor"] = " ".join(self.governors)
        if self.turbo is not None:
            known["turbo"] = "on" if self.turbo else "off"
        if self.numa_nodes is not None:
            known["numa_nodes"] = str(self.numa_nodes)
        return known


def machine_settings(system: Path = _SYSTEM) -> Settings:
    """Read what the machine is set to now.

    Args:
        system: Linux's folder of devices.
    """
    import psutil

    governors = {_read(path) for path in system.glob("cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    nodes = len(list(system.glob("node/node[0-9]*")))
    return Settings(
        governors=tuple(sorted(name for name in governors if name)),
        turbo=_turbo(system),
        numa_nodes=nodes or None,
        free_memory_bytes=psutil.virtual_memory().available,
    )


def _turbo(system: Path) -> bool | None:
    # Intel's driver tells whether it is off, the others whether it is on
    off = _read(system / "cpu" / "intel_pstate" / "no_turbo")
    if off in ("0", "1"):
        return off == "0"
    on = _read(system / "cpu" / "cpufreq" / "boost")
    return on == "1" if on in ("0", "1") else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@cache
def hardware() -> Hardware:
    """Describe this machine; found out once a process."""
    import psutil

    cpu, flags = _cpu()
    logical = os.cpu_count() or 1
    return Hardware(
        cpu=cpu,
        isa=tuple(flag for flag in _ISA_FLAGS if flag in flags),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        accelerators=_accelerators(),
    )


@cache
def versions() -> dict[str, str]:
    """Give the versions of Python and of the libraries that change results; installed ones only."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def packages(modules: tuple[tuple[str, str], ...]) -> tuple[PackageSummary, ...]:
    """Give the versions of distributions, and what git says of the code where it lies in a checkout.

    Found out once a process.

    Args:
        modules: Each distribution with a top-level module of it whose code counts; a distribution
            may come several times.
    """
    folders: dict[str, list[Path]] = {}
    for distribution, module in modules:
        folders.setdefault(distribution, []).extend(_code_folders(module))
    return tuple(_package(name, tuple(dict.fromkeys(places))) for name, places in sorted(folders.items()))


def _package(distribution: str, folders: tuple[Path, ...]) -> PackageSummary:
    try:
        version = metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        version = "unknown"
    commit: str | None = None
    dirty: bool | None = False
    for root, inside in _by_checkout(folders).items():
        said = _git(root, "rev-parse", "HEAD")
        tracked = _git(root, "ls-files", "--", *inside)
        changes = _git(root, "status", "--porcelain", "--", *inside)
        if said is None or tracked is None or changes is None:
            dirty = dirty or None
        elif tracked:  # an installation may lie below the checkout of something else
            commit = commit or said
            dirty = True if changes else dirty
    return PackageSummary(
        name=distribution, version=version, commit=commit, dirty=True if "dirty" in version else dirty
    )


def _by_checkout(folders: Iterable[Path]) -> dict[Path, list[str]]:
    """Give the folders by the git checkout around them; those in none are left out."""
    found: dict[Path, list[str]] = {}
    for folder in folders:
        root = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
        if root is not None:
            found.setdefault(root, []).append(str(folder))
    return found


def _code_folders(module: str) -> list[Path]:
    try:
        spec = util.find_spec(module)
    except (ImportError, ValueError):  # a module made in a notebook or a test
        return []
    if spec is None:
        return []
    places = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
    return [Path(place).resolve() for place in places]


def _git(root: Path, *arguments: str) -> str | None:
    """Ask git about a checkout; ``None`` where it is not installed, refuses or takes too long."""
    # an optional lock would be left in the way of the user's own git
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def load_average() -> float:
    """Give the processes that wanted a core, on average over the last minute."""
    import psutil

    return float(psutil.getloadavg()[0])


def read_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Read the processor's name and flags from the text of ``/proc/cpuinfo``.

    Returns:
        The name, empty where the text has none, and the flags of the first core.
    """
    name = re.search(r"^(?:model name|Model|Processor|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (name[1].strip() if name else ""), frozenset(flags[1].split() if flags else ())


def _cpu() -> tuple[str, frozenset[str]]:
    # py-cpuinfo takes a second, the file a millisecond
    try:
        name, flags = read_cpuinfo(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        name, flags = "", frozenset()
    if flags:
        return name or platform.processor() or platform.machine(), flags
    import cpuinfo

    about = cpuinfo.get_cpu_info()
    name = str(about.get("brand_raw") or platform.processor() or platform.machine())
    flags = frozenset(str(flag) for flag in about.get("flags", ()))
    if platform.machine().lower() in ("arm64", "aarch64") and sys.platform == "darwin":
        # Apple's cores all have these, and py-cpuinfo lists no flags for them
        flags |= {"neon", "asimd", "asimddp", "asimdhp"}
    return name, flags


def _accelerators() -> tuple[str, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # installed, but no driver: there is no device
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
