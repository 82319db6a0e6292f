"""Startup: `hydrapress --help` against a bare Hydra app's, as ratios of medians in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE_APP = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def app(config): ...
app()
"""
ROUNDS = 9
BUDGET = 3.0
HEAVY = ("torch", "onnx", "onnxruntime", "mlflow")


def seconds(command: list[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def heavy_imports(arguments: list[str], folder: str) -> list[str]:
    code = (
        "import atexit, sys; from hydrapress.cli import main\n"
        f"atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return [name for name in HEAVY if f"'{name}'" in done.stderr.splitlines()[-1]]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_APP)
        hydrapress = [sys.executable, "-m", "hydrapress.cli"]
        commands = {
            "bare Hydra app --help": [sys.executable, str(bare), "--help"],
            "hydrapress --help": [*hydrapress, "--help"],
            "hydrapress plugins": [*hydrapress, "plugins"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):  # interleaved, so that a busy minute meets all alike
            for name, command in commands.items():
                taken[name].append(seconds(command, folder))
        base = statistics.median(taken["bare Hydra app --help"])
        for name, values in taken.items():
            median = statistics.median(values)
            print(f"{name:<24} {median:6.3f} s  {median / base:5.2f}x   (budget {BUDGET:.0f}x)")
        for arguments in (["--help"], ["plugins"]):
            heavy = heavy_imports(arguments, folder)
            print(f"hydrapress {arguments[0]:<12} imports of {', '.join(HEAVY)}: {heavy or 'none'}")


if __name__ == "__main__":
    main()
