"""ONNX Runtime's execution providers: what each runs on, what it needs, and how it is pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PROVIDERS", "REMOTE", "Provider"]


@dataclass(frozen=True)
class Provider:
    """An execution provider as a backend.

    Attributes:
        suffix: Of the backend's name, ``onnxruntime-<suffix>``.
        key: ONNX Runtime's name of it.
        device: What it runs on, in words.
        install: What to install so that onnxruntime has it, in words.
        settings: Provider options that pin its arithmetic to the file's.
        options: Options that a user may set: text, and the provider option that it becomes.
        by_default: Whether a benchmark that names no backends measures on it.
        threads: Its own option for the number of threads, where it does not use ONNX Runtime's.
        compiles: Whether it replaces operators by compiled parts, which can't be written to a file.
    """

    suffix: str
    key: str
    device: str
    install: str
    settings: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    by_default: bool = True
    threads: str | None = None
    compiles: bool = True

    @property
    def name(self) -> str:
        """The backend's name."""
        return f"onnxruntime-{self.suffix}"


_GPU = "onnxruntime-gpu"
_BUILD = "an onnxruntime built with it"
_TENSORRT = {"trt_fp16_enable": "0", "trt_int8_enable": "0", "trt_bf16_enable": "0"}
_ENGINE_CACHE = {"engine_cache": ("folder that keeps compiled engines", "trt_engine_cache_path")}

PROVIDERS: tuple[Provider, ...] = (
    Provider("cpu", "CPUExecutionProvider", "CPU", "onnxruntime", compiles=False),
    # TF32 would compute float32 products in 10 bits of mantissa
    Provider("cuda", "CUDAExecutionProvider", "NVIDIA GPU", _GPU, {"use_tf32": "0"}, compiles=False),
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
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "CPU, OpenVINO",
        "onnxruntime-openvino",
        {"device_type": "CPU", "precision": "FP32"},
        threads="num_of_threads",
    ),
    # on its GPU and Neural Engine Core ML computes in float16 whatever the file says
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        "CPU, Core ML",
        "onnxruntime on macOS",
        {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUOnly"},
    ),
    Provider(
        "coreml-fp16",
        "CoreMLExecutionProvider",
        "Apple CPU, GPU or Neural Engine, float16",
        "onnxruntime on macOS",
        {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        by_default=False,
    ),
    Provider("dml", "DmlExecutionProvider", "DirectX 12 GPU", "onnxruntime-directml on Windows"),
    Provider("migraphx", "MIGraphXExecutionProvider", "AMD GPU", "onnxruntime-migraphx"),
    Provider("qnn", "QNNExecutionProvider", "Qualcomm NPU", "onnxruntime-qnn"),
    Provider("xnnpack", "XnnpackExecutionProvider", "CPU, XNNPACK", _BUILD, threads="intra_op_num_threads"),
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
"""The CPU comes first: it is the reference for ONNX files."""

REMOTE = frozenset({"AzureExecutionProvider"})
"""A service elsewhere: it would send the model's inputs away, and it measures the network."""
