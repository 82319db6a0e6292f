"""Summaries of jobs that never ran, made up by hand: plausible in every field, and cheap."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from hydrapress.moments import State
from hydrapress.scenario import Scenario
from hydrapress.summary import (
    SUMMARY_SCHEMA,
    Curve,
    DataSummary,
    EnvironmentSummary,
    LayerSummary,
    MeasurementSummary,
    PackageSummary,
    RunSummary,
    StageSummary,
)

__all__ = ["BACKENDS", "DATA", "HARDWARE", "environment", "failed", "odd_names", "summary", "sweep"]

BACKENDS = ("onnxruntime-cpu", "litert-cpu")

HARDWARE: dict[str, Any] = {
    "cpu": "Examplecorp E-2000 @ 2.00GHz",
    "isa": ["avx2", "fma", "avx512_vnni"],
    "physical_cores": 2,
    "logical_cores": 4,
    "memory_bytes": 16_000_000_000,
    "os": "Linux 6.1 x86_64",
    "accelerators": [],
    "fingerprint": "0123456789abcdef",
}

DATA = DataSummary(
    name="mnist_5k",
    digest=hashlib.sha256(b"mnist_5k").hexdigest(),
    sizes={"train": 3400, "calibration": 200, "validation": 400, "test": 1000},
)

_STARTED = 1_790_000_000.0
_PARAMS, _MACS = 44_426.0, 286_440.0
# slot, stage, inputs, format, size against float32, loss of quality, speed-up
_PIPELINE = (
    ("train", "trainer/train", (), "torch", 1.005, 0.0, 0.5),
    ("onnx", "exporter/onnx", ("train",), "onnx", 1.0, 0.0, 1.0),
    ("int8", "quantizer/onnx_static", ("onnx",), "onnx", 0.31, 0.002, 1.6),
    ("tflite", "exporter/tflite", ("train",), "tflite", 0.99, 0.0, 1.0),
    ("tflite_int8", "quantizer/tflite_static", ("tflite",), "tflite", 0.29, 0.003, 1.3),
)
_RUNS_ON = {"onnxruntime-cpu": "onnx", "litert-cpu": "tflite", "torch-eager": "torch", "openvino-cpu": "onnx"}
_LAYERS = (
    ("features.0.weight", (6, 1, 5, 5)),
    ("features.3.weight", (16, 6, 5, 5)),
    ("classifier.0.weight", (120, 256)),
    ("classifier.2.weight", (84, 120)),
    ("classifier.4.weight", (10, 84)),
)


def environment(**changes: Any) -> EnvironmentSummary:
    """Give where it ran: a small machine with clean packages."""
    given = EnvironmentSummary(
        hardware=HARDWARE,
        settings={"free_memory_bytes": "9000000000", "governor": "performance", "turbo": "on"},
        versions={"python": "3.11.7", "hydrapress": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        packages=(PackageSummary(name="hydrapress", version="0.1.0", commit="1f" * 20, dirty=False),),
    )
    return dataclasses.replace(given, **changes)


def summary(
    seed: int = 0,
    *,
    benchmark: str | None = "int8-lenet5",
    experiment: str = "hydrapress",
    backends: Sequence[str] = BACKENDS,
    threads: int = 1,
    accuracy: float = 0.984,
    size_bytes: float = 180_000.0,
    latency_ms: float = 0.08,
    sparsity: float = 0.0,
    label: str = "",
    config: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunSummary:
    """Give a finished job: a LeNet-5 trained, exported twice, quantized twice, and measured.

    Args:
        seed: Moves quality and latency a little, and makes other bits.
        benchmark: What it ran.
        experiment: Its name.
        backends: Where it was measured, of onnxruntime-cpu, litert-cpu, torch-eager, openvino-cpu.
        threads: Of the runtimes.
        accuracy: Of the float32 net at seed 0, on test data.
        size_bytes: Of the float32 ONNX file.
        latency_ms: Of the float32 ONNX file.
        sparsity: Fraction of zeros in its weights.
        label: Its title; the benchmark and the seed by default.
        config: Parts of the config to be replaced.
        **changes: Fields of ``RunSummary`` to be replaced, last.
    """
    noise = random.Random(seed)
    base = round(accuracy + noise.choice((-0.002, -0.001, 0.0, 0.001)), 4)
    slow = latency_ms * noise.uniform(0.98, 1.02)
    name = benchmark or "job"
    stages = [
        _stage(slot, seed, base - loss, size_bytes * share, sparsity, (name, label))
        for slot, _, _, _, share, loss, _ in _PIPELINE
    ]
    stages.append(
        StageSummary(
            id="bench",
            use="evaluator/benchmark",
            inputs=tuple(slot for slot, *_ in _PIPELINE),
            format="report",
            fields={"backends": list(backends), "threads": [threads], "starts": 5},
            key=_sha("bench", seed, name, label),
            cached=False,
            seconds=21.5,
        )
    )
    measurements = [
        _measurement(
            slot, backend, threads, noise, (base - loss, size_bytes * share, slow / speedup, speedup)
        )
        for backend in backends
        for slot, _, _, format_, share, loss, speedup in _PIPELINE
        if format_ == _RUNS_ON[backend]
    ]
    run_id = _sha("run", seed, name, label, experiment, accuracy, size_bytes)[:32]
    title = label or f"benchmark={benchmark} seed={seed}"
    given = RunSummary(
        schema=SUMMARY_SCHEMA,
        run_id=run_id,
        sweep_id=None,
        experiment=experiment,
        label=title,
        command=f"hydrapress benchmark={benchmark} seed={seed}" if benchmark else f"hydrapress seed={seed}",
        state=State.FINISHED,
        error=None,
        started=_STARTED + 600 * seed,
        seconds=64.25,
        seed=seed,
        benchmark=benchmark,
        metric="accuracy",
        greater_is_better=True,
        config=_config(seed, benchmark, backends, threads) | dict(config or {}),
        data=DATA,
        environment=environment(),
        stages=tuple(stages),
        measurements=tuple(measurements),
        notes=("measured on Examplecorp E-2000 @ 2.00GHz (avx2 fma avx512_vnni); 5 starts",),
    )
    return dataclasses.replace(given, **changes)


def sweep(
    count: int, *, backends: Sequence[str] = BACKENDS, benchmark: str | None = None
) -> list[RunSummary]:
    """Give the jobs of a sweep over sparsities: sizes, qualities and latencies differ, one in ten failed.

    Among them are names with spaces, quotes, ``<script>``, other alphabets, and very long ones.
    """
    noise = random.Random(count)
    sweep_id = _sha("sweep", count)[:32]
    names = odd_names()
    jobs = []
    for index in range(count):
        sparsity = index / max(count, 2)
        label = (
            f"stages.prune.sparsity={sparsity:.3f}" if index % 7 else f"{names[index % len(names)]} {index}"
        )
        if index % 10 == 9:
            jobs.append(failed(index, sweep_id=sweep_id, label=label, benchmark=benchmark))
            continue
        jobs.append(
            summary(
                index,
                benchmark=benchmark,
                experiment="sparsities",
                backends=backends,
                accuracy=0.99 - 0.08 * sparsity**3 - noise.uniform(0, 0.01),
                size_bytes=180_000.0 * (1.02 - 0.9 * sparsity) * noise.uniform(0.95, 1.05),
                latency_ms=0.08 * (1.02 - 0.5 * sparsity) * noise.uniform(0.9, 1.1),
                sparsity=sparsity,
                label=label,
                sweep_id=sweep_id,
            )
        )
    return jobs


def failed(seed: int = 0, **changes: Any) -> RunSummary:
    """Give a job whose quantizer failed: no measurements, a stage without a format."""
    whole = summary(seed, label=str(changes.get("label", "failed")), benchmark=changes.get("benchmark"))
    broken = dataclasses.replace(
        whole.stages[2], format="", key="", metrics={}, sha256=None, layers=(), curves=(), seconds=0.4
    )
    given = dataclasses.replace(
        whole,
        state=State.FAILED,
        error="StageError: int8 = quantizer/onnx_static(onnx) failed: no calibration data",
        stages=(*whole.stages[:2], broken),
        measurements=(),
        notes=(),
    )
    return dataclasses.replace(given, **changes)


def odd_names() -> tuple[str, ...]:
    """Give titles that break what is careless with them."""
    return (
        "a b  c",
        "<script>alert('x')</script>",
        "quotes \" and ' and `",
        "Größe 大小 размер 📦",
        "../../etc/passwd",
        "| pipe | table | [link](x)",
        "=1+1",
        "long " + "x" * 200,
    )


def _sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _stage(
    slot: str, seed: int, accuracy: float, size_bytes: float, sparsity: float, names: tuple[str, str]
) -> StageSummary:
    _, use, inputs, format_, *_ = next(row for row in _PIPELINE if row[0] == slot)
    trained = slot == "train"
    return StageSummary(
        id=slot,
        use=use,
        inputs=inputs,
        format=format_,
        fields={"epochs": 20, "lr": 0.001} if trained else {},
        key=_sha(slot, seed, *names),
        cached=False,
        seconds=31.0 if trained else 1.5,
        metrics={
            "accuracy": round(accuracy, 4),
            "val_accuracy": round(accuracy - 0.003, 4),
            "size_bytes": float(round(size_bytes)),
            "params": _PARAMS,
            "nonzero_params": float(round(_PARAMS * (1 - sparsity))),
            "sparsity": sparsity,
            "macs": _MACS,
        },
        sha256=_sha("bits", slot, seed, *names, size_bytes),
        layers=tuple(
            _layer(name, shape, sparsity, 8.0 if "int8" in slot else 32.0) for name, shape in _LAYERS
        ),
        curves=_curves() if trained else (),
    )


def _layer(name: str, shape: tuple[int, ...], sparsity: float, bits: float) -> LayerSummary:
    weights = 1
    for length in shape:
        weights *= length
    return LayerSummary(name=name, shape=shape, weights=weights, zeros=int(weights * sparsity), bits=bits)


def _curves() -> tuple[Curve, ...]:
    steps = tuple(range(1, 21))
    return (
        Curve(name="train_loss", steps=steps, values=tuple(2.3 * 0.8**step for step in steps)),
        Curve(name="val_accuracy", steps=steps, values=tuple(0.99 - 0.4 * 0.7**step for step in steps)),
    )


def _measurement(
    slot: str, backend: str, threads: int, noise: random.Random, about: tuple[float, float, float, float]
) -> MeasurementSummary:
    accuracy, size_bytes, latency_ms, speedup = about
    baseline = {"onnxruntime-cpu": "onnx", "openvino-cpu": "onnx", "litert-cpu": "tflite"}.get(backend, slot)
    ratio = speedup * noise.uniform(0.99, 1.01)
    spread = 0.0 if slot == baseline else 0.04
    if slot == baseline:
        ratio, verdict = 1.0, f"the baseline on {backend}"
    else:
        verdict = f"{ratio:.2f}x faster than '{baseline}' ({ratio * 0.96:.2f} to {ratio * 1.04:.2f})"
    return MeasurementSummary(
        stage="bench",
        model=slot,
        backend=backend,
        threads=threads,
        batch_size=1,
        scenario=Scenario.SINGLE_STREAM,
        metrics={
            "accuracy": round(accuracy, 4),
            "size_bytes": float(round(size_bytes)),
            "size_ratio": 1.0 if slot == baseline else 3.2,
            "latency_ms_p50": latency_ms,
            "latency_ms_p90": latency_ms * 1.08,
            "latency_ms_p99": latency_ms * 1.4,
            "latency_ms_ci_low": latency_ms * 0.98,
            "latency_ms_ci_high": latency_ms * 1.02,
            "latency_ms_p90_ci_low": latency_ms * 1.05,
            "latency_ms_p90_ci_high": latency_ms * 1.11,
            "throughput_per_s": 990.0 / latency_ms,
            "throughput_per_s_ci_low": 970.0 / latency_ms,
            "throughput_per_s_ci_high": 1010.0 / latency_ms,
            "speedup": ratio,
            "speedup_ci_low": ratio * (1 - spread),
            "speedup_ci_high": ratio * (1 + spread),
            "peak_memory_bytes": 61_000_000.0,
            "model_memory_bytes": 1_900_000.0,
            "load_ms": 4.5,
            "outliers": 12.0,
            "calls": 4000.0,
            "noise_floor": 0.012,
        },
        params={
            "backend": backend,
            "scenario": "single_stream",
            "threads": str(threads),
            "batch_size": "1",
            "starts": "5",
            "rounds": "8",
            "block_ms": "50",
            "warmup": "10",
            "runtime_version": "1.32.0",
            "device": "cpu",
            "hardware_cpu": str(HARDWARE["cpu"]),
            "hardware_fingerprint": str(HARDWARE["fingerprint"]),
            "isa": " ".join(HARDWARE["isa"]),
            "load_average": "0.10",
            "interference_cores": "0.01",
            "steal_cores": "0.00",
            "busy": "false",
            "quality_batch_size": "1",
            "a_a": "+0.1 % [-0.6, +0.8]",
        },
        verdict=verdict,
    )


def _config(seed: int, benchmark: str | None, backends: Sequence[str], threads: int) -> dict[str, Any]:
    slots: dict[str, Any] = {
        slot: {"use": use, "enabled": True, "inputs": list(inputs) or None}
        for slot, use, inputs, *_ in _PIPELINE
    }
    slots["train"] |= {"epochs": 20, "lr": 0.001}
    slots["bench"] = {
        "use": "evaluator/benchmark",
        "enabled": True,
        "inputs": [slot for slot, *_ in _PIPELINE],
        "backends": list(backends),
        "threads": [threads],
        "starts": 5,
        "max_seconds": 60.0,
    }
    return {
        "seed": seed,
        "device": "auto",
        "model": {"factory": "lenet5", "_target_": None, "args": {"classes": 10}, "weights": None},
        "data": {
            "name": "mnist_5k",
            "_target_": None,
            "args": {},
            "split_seed": 0,
            "channels": 1,
            "size": 28,
            "classes": 10,
        },
        "task": {"name": "classification", "args": {}},
        "stages": slots,
        "bench": {"reuse": False},
        **({"benchmark": {"id": benchmark}} if benchmark else {}),
    }
