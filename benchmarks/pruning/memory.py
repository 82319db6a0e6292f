"""How much memory each pruner takes, in a fresh process, in units of the model's own size.

    python benchmarks/pruning/memory.py [--nets resnet20 minilm] [--pruners magnitude channels ...]

Each pair is one process: the model is made, a smaller one is pruned first so that everything is
imported and warm, and one pass over a batch of the calibration data is made, forward and backward,
whose peak is the batch's own. Then the pruner runs, and the peak of the whole process is read from
the kernel (``VmHWM``, set back by ``/proc/self/clear_refs``), so that nothing is missed that is
not a tensor. *Beyond the batch* is what the pruner takes more than that pass does; at most three
times the model is wanted. A pruner that trains is compared with ``trainer/finetune`` instead,
whose gradients, momentum and copy of the best epoch it needs as well; to one that looks at no data
nothing is spared.

A small model is within the noise of the allocator; ``copy``, which only copies the model, shows how
much that is. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _paired import bare_context, task_of, write_json

from hydrapress.task import Split, Task

RESULTS = Path(__file__).parent / "results" / "memory.json"
WANTED = 3.0
BATCH = 32
NETS = {
    "resnet20": ("data=fashion_mnist", "data.args.limit=500", "model=resnet20"),
    "minilm": ("data=trec6", "data.args.limit=200", "model=minilm"),
}
WARM = {
    "resnet20": ("data=digits", "model=resnet8"),
    # no smaller transformer is at hand; a first pruning of the same net warms everything
    "minilm": NETS["minilm"],
}
TRAINING = "{epochs: 1, batch_size: 32, learning_rate: 0.001}"
PRUNERS = {
    "copy": "",
    "finetune": TRAINING,
    "magnitude": "{sparsity: 0.5}",
    "snip": "{sparsity: 0.5, batch_size: 32}",
    "grasp": "{sparsity: 0.5, batch_size: 32}",
    "n_m": "{}",
    "wanda": "{sparsity: 0.5, samples: 32}",
    "sparsegpt": "{sparsity: 0.5, samples: 32}",
    "channels": "{factor: 1.5, batches: 1, batch_size: 32}",
    "channels_taylor": "{factor: 1.5, criterion: TAYLOR, batches: 1, batch_size: 32}",
    "gradual": f"{{sparsity: 0.5, schedule: GRADUAL, training: {TRAINING}}}",
    "movement": f"{{sparsity: 0.5, {TRAINING.strip('{}')}}}",
}
USES = {"finetune": "trainer/finetune", "gradual": "pruner/magnitude", "channels_taylor": "pruner/channels"}
TRAINS = {"finetune", "gradual", "movement"}
WITHOUT_DATA = {"copy", "magnitude", "n_m"}


@dataclass(frozen=True)
class Weight:
    """What one pruner took on one net.

    Attributes:
        model_bytes: Of parameters and buffers.
        batch_bytes: Peak of one pass over a batch, forward and backward, above the process at rest.
        peak_bytes: Peak of the pruner, likewise.
    """

    net: str
    pruner: str
    model_bytes: int
    batch_bytes: int
    peak_bytes: int

    def times(self, spared: int) -> float:
        """Give the peak beyond some bytes, in units of the model."""
        return max(self.peak_bytes - spared, 0) / self.model_bytes


def at_rest() -> int:
    """Give back what is free, and start counting the peak from here; the process's bytes now."""
    import ctypes

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak_of(work: Callable[[], object]) -> int:
    """Give the peak of some work above the process at rest; what it gives is kept until the end."""
    before = at_rest()
    kept = work()
    peak = status("VmHWM") - before
    del kept
    return peak


def weigh(net: str, pruner: str) -> Weight:
    import torch

    torch.set_num_threads(1)
    task = task_of(*NETS[net])
    work = worker(pruner)
    work(task_of(*WARM[net]))
    model = task.new_model()
    passes = one_pass(model.module, task)
    passes()
    tensors = [*model.module.parameters(), *model.module.buffers()]
    return Weight(
        net,
        pruner,
        sum(each.numel() * each.element_size() for each in tensors),
        peak_of(passes),
        peak_of(lambda: work(task, model)),
    )


def worker(pruner: str) -> Callable[..., object]:
    from omegaconf import OmegaConf

    from hydrapress.config import stage_from
    from hydrapress.plugins import installed_plugins

    if pruner == "copy":
        return lambda task, model=None: (model or task.new_model()).copy_module()
    spec = installed_plugins().stages[USES.get(pruner, f"pruner/{pruner}")]
    stage: Any = stage_from(spec, OmegaConf.create(PRUNERS[pruner]))

    def work(task: Task, model: Any = None) -> object:
        with tempfile.TemporaryDirectory() as scratch:
            return stage.run(model or task.new_model(), context=bare_context(task, Path(scratch)))

    return work


def one_pass(module: Any, task: Task) -> Callable[[], None]:
    from hydrapress.modeling import output_tensors

    def passes() -> None:
        inputs, targets = next(iter(task.loader(Split.CALIBRATION, BATCH)))
        given = inputs if isinstance(inputs, list | tuple) else (inputs,)
        task.objective.loss(output_tensors(module(*given))[0], targets).backward()
        module.zero_grad(set_to_none=True)

    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS), choices=list(PRUNERS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(asdict(weigh(*args.child))))
        return
    results = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    for net in args.nets:
        found: dict[str, Weight] = {}
        for pruner in ["finetune", *(name for name in args.pruners if name != "finetune")]:
            words = [sys.executable, __file__, "--child", net, pruner]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{net:10} {pruner:16} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            each = found[pruner] = Weight(**json.loads(done.stdout.splitlines()[-1]))
            finetune = found["finetune"].peak_bytes if "finetune" in found else 0
            spared, what = each.batch_bytes, "the batch"
            if pruner in TRAINS:
                spared, what = finetune, "finetune"
            elif pruner in WITHOUT_DATA:
                spared, what = 0, "the model"
            beyond = each.times(spared)
            print(
                f"{net:10} {pruner:16} model {each.model_bytes / 1e6:6.1f} MB"
                f"  peak {each.peak_bytes / 1e6:7.1f} MB  batch {each.batch_bytes / 1e6:7.1f} MB"
                f"  beyond {what:9} {beyond:5.2f}x"
                f"{'' if beyond <= WANTED else f'  more than {WANTED:g}x'}",
                flush=True,
            )
        results[net] = {name: asdict(each) for name, each in found.items()}
        write_json(args.out, results)


if __name__ == "__main__":
    main()
