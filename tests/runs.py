"""Running hydrapress in a process of its own, and looking at what its store then holds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hydrapress.store import Store

COMMAND = (sys.executable, "-m", "hydrapress.cli")

TINY = (
    "data=digits",
    "model=lenet_300_100",
    "stages.train.epochs=2",
    # ranked over the whole net, weights trained so briefly would go by layers
    "stages.prune.scope=LAYER",
    "stages.recover.epochs=2",
)
"""The default pipeline's net and data made small."""

BRIEF_BENCH = (
    "stages.bench.starts=2",
    "stages.bench.rounds=1",
    "stages.bench.block_ms=2",
    "stages.bench.min_queries=0",
    "stages.bench.noise_floor=false",
)


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, so that a test can kill all of it."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    process = start(*arguments, cwd=cwd, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def results(root: Path) -> dict[str, dict[str, str]]:
    """Give the sha256 of every file of every entry, by slot; reports are left out, as they measure."""
    found: dict[str, dict[str, str]] = {}
    for entry in Store(root).entries():
        if entry.format == "report":
            continue
        files = sorted(p for p in entry.folder.rglob("*") if p.is_file())
        found[entry.label] = {
            p.relative_to(entry.folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
        }
    return found


def problems(root: Path) -> list[str]:
    """List everything that is wrong in a store."""
    return [problem for _, found in Store(root).verify() for problem in found]
