"""Whether every runtime computes what torch does: four networks, each exported and run on all backends.

    python benchmarks/runtimes.py [--networks lenet5 resnet20 lite0 minilm] [--limit N] [--executorch]
        [--folder outputs/runtimes]

Each network is trained (or tuned from pretrained weights) and goes through ONNX, TFLite and
OpenVINO. For each file on each backend the table has the largest difference from torch's
outputs on real samples, relative to the largest output; the accuracy on the whole test split,
as measured on that backend; its difference from torch's in samples per 1,000; and the median
latency. Exits 1 if a difference is beyond what is demanded. What is finished in the folder is
not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydrapress.cli import set_environment

if TYPE_CHECKING:
    import numpy as np

    from hydrapress.artifacts import Model
    from hydrapress.backend import Backend

TOLERANCE = 1e-4
"""Largest difference allowed, of the largest absolute output."""

PER_1000 = 1.0
"""Difference in quality allowed, in samples per 1,000."""

SAMPLES = 64
BASELINE = "train"
EXTRA_BACKENDS = ("torch-compile", "litert-cpu-plain")
"""Backends in float32 that a benchmark leaves out unless they are named."""

NETWORKS = {
    "lenet5": ("pipeline=runtimes",),
    "resnet20": ("experiment=resnet20_fashion",),
    "lite0": ("experiment=lite0_fashion",),
    "minilm": ("experiment=minilm_trec6",),
}
EXECUTORCH = (
    "+stage@stages.executorch=exporter/executorch",
    "stages.executorch.inputs=train",
    "stages.bench.inputs=[train,onnx,tflite,openvino,executorch]",
)


@dataclass(frozen=True)
class Line:
    """One file on one backend."""

    network: str
    model: str
    backend: str
    max_rel_diff: float
    accuracy: float
    per_1000: float
    latency_ms: float
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it is within what is demanded; NaN is not."""
        # accuracies are means of whole samples: a hundredth of a sample is rounding
        return self.problem is None and self.max_rel_diff <= TOLERANCE and self.per_1000 <= PER_1000 + 0.01


def relative_difference(
    source: Model, target: Model, backend: Backend, inputs: tuple[np.ndarray, ...]
) -> float:
    """Run the source in torch and the target on one backend; give the largest difference of outputs."""
    from hydrapress.parity.difference import compare_outputs
    from hydrapress.parity.hop import outputs_of, run_on

    actual = run_on(backend, target, inputs)
    return compare_outputs(outputs_of(source, inputs, []), actual).metrics()["parity/max_rel_diff"]


def measured(network: str, overrides: list[str]) -> list[Line]:
    """Run a network's job and give a line for each of its files on each backend."""
    import hydrapress
    from hydrapress.artifacts import Model
    from hydrapress.compose import compose_config
    from hydrapress.config import task_from
    from hydrapress.errors import HydrapressError
    from hydrapress.job import read_config
    from hydrapress.plugins import installed_plugins
    from hydrapress.task import Split

    plugins = installed_plugins()
    backends = {
        name: backend
        for name, backend in plugins.backends.items()
        if (backend.by_default or name in EXTRA_BACKENDS) and backend.unavailable() is None
    }
    job = [
        *NETWORKS[network],
        "tracking=none",
        "stages.bench.starts=3",
        "stages.bench.rounds=5",
        "stages.bench.noise_floor=false",
        "stages.bench.max_seconds=600",
        f"stages.bench.backends=[{','.join(backends)}]",
        *overrides,
    ]
    result = hydrapress.run(job)
    if result.report is None:
        raise RuntimeError(f"the job of {network} gave no report")
    task = task_from(read_config(compose_config(job)), plugins)
    inputs = tuple(each.numpy() for each in task.sample_inputs(SAMPLES, Split.TEST))
    models = {name: item for name, item in result.artifacts.items() if isinstance(item, Model)}
    metric, nan = task.objective.metric, float("nan")
    expected = result.metrics[BASELINE][metric]
    lines = []
    for row in result.report.rows:
        model, backend, problem = str(row["model"]), str(row["backend"]), row["problem"]
        difference = nan
        if problem is None:
            try:
                difference = relative_difference(models[BASELINE], models[model], backends[backend], inputs)
            except HydrapressError as error:
                problem = str(error)
        accuracy = float(row.get(metric) or nan)
        lines.append(
            Line(
                network,
                model,
                backend,
                difference,
                accuracy,
                abs(accuracy - expected) * 1000,
                float(row.get("latency_ms_p50") or nan),
                problem,
            )
        )
    return lines


def show(lines: list[Line]) -> None:
    print(
        f"{'network':<9} {'file':<11} {'backend':<17} {'max rel diff':>12} {'accuracy':>9} "
        f"{'per 1,000':>9} {'p50 ms':>9}  holds"
    )
    for line in lines:
        print(
            f"{line.network:<9} {line.model:<11} {line.backend:<17} {line.max_rel_diff:>12.2g} "
            f"{line.accuracy:>9.4f} {line.per_1000:>9.2f} {line.latency_ms:>9.3f}  "
            f"{'yes' if line.holds else 'NO'}{': ' + line.problem if line.problem else ''}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--limit", type=int, help="train on so many samples only (not LeNet-5)")
    parser.add_argument("--executorch", action="store_true", help="ExecuTorch, too")
    parser.add_argument("--folder", type=Path, default=Path("outputs/runtimes"))
    options = parser.parse_args()
    set_environment()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    lines = []
    for network in options.networks:
        overrides = list(EXECUTORCH) if options.executorch else []
        if options.limit and network != "lenet5":
            overrides.append(f"data.args.limit={options.limit}")
        found = measured(network, overrides)
        show(found)
        lines += found
    print()
    show(lines)
    failed = [line for line in lines if not line.holds]
    print(
        f"\ndemanded: at most {TOLERANCE:g} of the largest output, and {PER_1000:g} sample per 1,000 of "
        f"accuracy, on every backend: {'NOT HELD' if failed else 'held'} ({len(lines)} rows)"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
