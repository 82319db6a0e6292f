"""What the harness adds: our median against ONNX Runtime's bare loop, for a 40 µs model.

    python benchmarks/harness.py [--starts 8] [--rounds 10]

Each start has two fresh processes, our worker and a bare loop of four lines, which take turns
as any two candidates do. Prints the ratio of their medians, as the mean over starts with its
interval, beside the budget.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hydrapress.artifacts import OnnxModel, Signature, TensorSpec
from hydrapress.environment import hardware, load_average
from hydrapress.measure.process import WorkerProcess, worker_environment
from hydrapress.measure.statistics import geometric_interval, start_ratio
from hydrapress.measure.worker import Setup

BUDGET = 1.02
BLOCK_NS = 50_000_000
SIDE = 28
SAMPLES = 16
NARROW, WIDE = 16, 46


def make_lenet(path: Path) -> OnnxModel:
    """Write a LeNet with random weights as ONNX, narrow enough to take about 40 µs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(scale=0.05, size=shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["c1"]),
        helper.make_node("MaxPool", ["c1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"]),
        helper.make_node("MaxPool", ["c2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g1"]),
        helper.make_node("Relu", ["g1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "w4", "b4"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet_5",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 10])],
        [
            weights("w1", NARROW, 1, 5, 5),
            weights("b1", NARROW),
            weights("w2", WIDE, NARROW, 5, 5),
            weights("b2", WIDE),
            weights("w3", WIDE * 16, 250),
            weights("b3", 250),
            weights("w4", 250, 10),
            weights("b4", 10),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    signature = Signature(
        (TensorSpec("input", "float32", (None, 1, SIDE, SIDE)),),
        (TensorSpec("output", "float32", (None, 10)),),
    )
    return OnnxModel(signature, path=path, params=0, macs=0)


def make_setup(model: OnnxModel, folder: Path) -> Setup:
    """Save the model and random samples, and say how a worker runs them on ONNX Runtime."""
    saved = folder / "model"
    saved.mkdir()
    model.save(saved)
    inputs = folder / "input.npy"
    samples = np.random.default_rng(1).normal(size=(SAMPLES, 1, SIDE, SIDE)).astype(np.float32)
    np.save(inputs, samples, allow_pickle=False)
    return Setup(
        model_folder=str(saved),
        model_format="onnx",
        backend="onnxruntime-cpu",
        backend_class="hydrapress_backends.onnxruntime:OnnxRuntime",
        inputs=(str(inputs),),
        threads=1,
        batch_size=1,
        warmup=3,
        trust=(),
        sys_path=tuple(sys.path),
    )


def bare_loop(model: str, inputs: str) -> None:
    """Be the other side: for each line on stdin, run the runtime alone for one block."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = itertools.cycle([{"input": sample[None]} for sample in np.load(inputs, allow_pickle=False)])
    clock = time.perf_counter_ns
    for _ in sys.stdin:
        for _ in range(3):
            session.run(names, next(feeds))
        latencies, end = [], clock() + BLOCK_NS
        while clock() < end:
            feed = next(feeds)
            started = clock()
            session.run(names, feed)
            latencies.append(clock() - started)
        sys.stdout.write(json.dumps(float(np.median(latencies))) + "\n")
        sys.stdout.flush()


def one_start(
    setup: Setup, model: Path, rounds: int, rng: random.Random, log: Path
) -> tuple[float, float, float]:
    """Give the ratio ours / bare of one start, and both medians in µs."""
    command = [sys.executable, "-P", __file__, "--bare", str(model), setup.inputs[0]]
    ours: list[float] = []
    bare: list[float] = []
    with (
        WorkerProcess(setup, log, lambda: None) as worker,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(1),
        ) as other,
    ):
        worker.started()
        worker.ask("load")

        def bare_turn() -> None:
            if other.stdin is None or other.stdout is None:
                raise RuntimeError("the bare loop has no pipes")
            other.stdin.write("go\n")
            other.stdin.flush()
            bare.append(float(other.stdout.readline()))

        def our_turn() -> None:
            ours.append(float(np.median(worker.ask("block", block_ns=BLOCK_NS)["latencies_ns"])))

        bare_turn()
        bare.clear()
        for _ in range(rounds):
            for turn in rng.sample([bare_turn, our_turn], 2):
                turn()
        if other.stdin is not None:
            other.stdin.close()
    return start_ratio(ours, bare), float(np.median(ours)) / 1e3, float(np.median(bare)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bare", nargs=2, metavar=("MODEL", "INPUTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_loop(*options.bare)
        return
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_lenet(folder / "lenet.onnx")
        setup = make_setup(model, folder)
        print(f"{hardware().cpu}, load average {load_average():.2f}")
        ratios = []
        for number in range(options.starts):
            ratio, ours, bare = one_start(setup, model.path, options.rounds, rng, folder / "worker.log")
            ratios.append(ratio)
            print(f"start {number + 1}: ours {ours:.2f} µs, bare {bare:.2f} µs, ratio {ratio:.4f}")
    mean = geometric_interval(ratios)
    state = "within" if mean.estimate <= BUDGET else "OVER"
    print(
        f"ours / bare: {mean.estimate:.4f} (95 %: {mean.low:.4f} to {mean.high:.4f}); "
        f"budget {BUDGET}: {state}"
    )


if __name__ == "__main__":
    main()
