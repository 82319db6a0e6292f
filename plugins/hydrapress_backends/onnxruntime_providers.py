"""ONNX Runtime's execution providers: what each runs on, what it needs, and how it is pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["PROVIDERS", "REMOTE", "Provider"]

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Provider:
    """An execution provider as a backend.

    Attributes:
        suffix: Of the backend's name, ``onnxruntime-<suffix>``.
        key: ONNX Runtime's name of it.
        device: What it runs on, in words.
        install: The package whose onnxruntime has it.
        settings: Provider options that pin its arithmetic to the file's.
        options: Options that a user may set: text, and the provider option that it becomes.
        by_default: Whether a benchmark that names no backends measures on it.
    """

    suffix: str
    key: str
    device: str
    install: str
    settings: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    by_default: bool = True

    @property
    def name(self) -> str:
        """The backend's name."""
        return f"onnxruntime-{self.suffix}"


_GPU = "onnxruntime-gpu"
_BUILD = "a build of onnxruntime with it (see its documentation of execution providers)"
_TENSORRT = {"trt_fp16_enable": "0", "trt_int8_enable": "0", "trt_bf16_enable": "0"}
_ENGINE_CACHE = {"engine_cache": ("folder that keeps compiled engines", "trt_engine_cache_path")}

PROVIDERS: tuple[Provider, ...] = (
    Provider("cpu", "CPUExecutionProvider", "CPU", "onnxruntime"),
    # TF32 would compute float32 products in 10 bits of mantissa
    Provider("cuda", "CUDAExecutionProvider", "NVIDIA GPU", _GPU, {"use_tf32": "0"}),
    Provider("tensorrt", "TensorrtExecutionProvider", "NVIDIA GPU", _GPU, _TENSORRT, _ENGINE_CACHE),
    Provider(
        "tensorrt-fp16",
        "TensorrtExecutionProvider",
        "NVIDIA GPU, float16",
        _GPU,
        _TENSORRT | {"trt_fp16_enable": "1"},
        _ENGINE_CACHE,
        by_default=False,
    ),
    Provider(
        "tensorrt-int8",
        "TensorrtExecutionProvider",
        "NVIDIA GPU, int8",
        _GPU,
        _TENSORRT | {"trt_int8_enable": "1"},
        _ENGINE_CACHE,
        by_default=False,
    ),
    Provider("openvino", "OpenVINOExecutionProvider", "OpenVINO device", "onnxruntime-openvino"),
    Provider("coreml", "CoreMLExecutionProvider", "Apple CPU, GPU or Neural Engine", "onnxruntime on macOS"),
    Provider("dml", "DmlExecutionProvider", "DirectX 12 GPU", "onnxruntime-directml on Windows"),
    Provider("migraphx", "MIGraphXExecutionProvider", "AMD GPU", "onnxruntime-rocm"),
    Provider("qnn", "QNNExecutionProvider", "Qualcomm NPU", "onnxruntime-qnn"),
    Provider("xnnpack", "XnnpackExecutionProvider", "CPU, XNNPACK", _BUILD),
    Provider("dnnl", "DnnlExecutionProvider", "CPU, oneDNN", _BUILD),
    Provider("nnapi", "NnapiExecutionProvider", "Android accelerator", _BUILD),
    Provider("vitisai", "VitisAIExecutionProvider", "AMD NPU or FPGA", _BUILD),
    Provider("rknpu", "RknpuExecutionProvider", "Rockchip NPU", _BUILD),
    Provider("cann", "CANNExecutionProvider", "Huawei Ascend", "onnxruntime-cann"),
    Provider("vsinpu", "VSINPUExecutionProvider", "VeriSilicon NPU", _BUILD),
    Provider("webgpu", "WebGpuExecutionProvider", "GPU, WebGPU", _BUILD),
    Provider("webnn", "WebNNExecutionProvider", "WebNN", _BUILD),
    Provider("js", "JsExecutionProvider", "browser", _BUILD),
)
"""In the order in which they are tried; the first one that is available is the reference."""

REMOTE = frozenset({"AzureExecutionProvider"})
"""A service elsewhere: it would send the model's inputs away, and it measures the network."""
