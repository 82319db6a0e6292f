"""The built-in backends: torch, ONNX Runtime, LiteRT, OpenVINO, ExecuTorch; and the benchmark stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrapress.hookspecs import hookimpl

if TYPE_CHECKING:
    from hydrapress.backend import Backend
    from hydrapress.stage import Stage


@hookimpl
def hydrapress_backends() -> list[Backend]:
    """Offer the runtimes."""
    from .executorch import ExecuTorchXnnpack
    from .litert import LiteRTCpu, LiteRTCpuPlain
    from .onnxruntime import onnxruntime_backends
    from .openvino import openvino_backends
    from .torch_compile import TorchCompile
    from .torch_eager import TorchEager

    return [
        TorchEager(),
        TorchCompile(),
        *onnxruntime_backends(),
        LiteRTCpu(),
        LiteRTCpuPlain(),
        *openvino_backends(),
        ExecuTorchXnnpack(),
    ]


@hookimpl
def hydrapress_stages() -> list[type[Stage]]:
    """Offer the benchmark."""
    from .stages import Benchmark

    return [Benchmark]
