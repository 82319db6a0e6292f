"""Machine: which host and process wrote a run, to tell a killed one from a busy one."""

from __future__ import annotations

import os
import platform
from functools import cache

__all__ = ["HOST_TAG", "PROCESS_TAG", "circumstances", "host", "is_gone", "process_mark", "process_tags"]

HOST_TAG = "hydrapress.host"
PROCESS_TAG = "hydrapress.process"

_TRACKED = ("python", "hydrapress", "torch", "onnxruntime", "onnx", "ai-edge-litert", "openvino")

_CLOCK_SLACK_S = 5.0
"""A process's start is computed from the boot time, which follows the clock's corrections."""


def host() -> str:
    """Name this host, without quotes, which MLflow's filters could not take."""
    return platform.node().replace("'", "") or "unknown"


@cache
def circumstances() -> dict[str, str]:
    """Give the tags of hardware and versions; found out once a process."""
    from hydrapress.environment import hardware, versions

    machine, installed = hardware(), versions()
    tags = {"hardware.cpu": machine.cpu, "hardware.isa": " ".join(machine.isa)}
    return tags | {f"version.{name}": installed[name] for name in _TRACKED if name in installed}


def process_mark(pid: int | None = None) -> str:
    """Mark a process: pid, start in Unix seconds, and the pid namespace.

    A pid alone is used again sooner or later, and two containers of one host name may count
    their processes apart.
    """
    import psutil

    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}:{_namespace()}"


def process_tags() -> dict[str, str]:
    """Give the tags by which a run of a killed process is told from a busy one's."""
    return {HOST_TAG: host(), PROCESS_TAG: process_mark()}


def is_gone(mark: str) -> bool:
    """Tell whether a process of this host has certainly ended; no when in doubt."""
    import psutil

    try:
        pid, started, namespace = mark.split(":")
        if namespace != _namespace():
            return False
        running = psutil.Process(int(pid))
        return (
            abs(running.create_time() - float(started)) > _CLOCK_SLACK_S
            or running.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.Error):
        return False


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"
