"""Models: a stage's model as MLflow's logged model, so that the Models tab shows it.

ONNX becomes a model that MLflow can load and serve; other formats are kept as their files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from hydrapress.artifacts import file_sha256

from .operations import LogFile
from .places import place_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model, ModelSignature

    from .operations import LogModel

__all__ = ["KEY_TAG", "file_problems", "record_model", "sealed"]

KEY_TAG = "hydrapress.key"

_LOCK_TIMEOUT_S = 300
_ONNX_FILE = "model.onnx"


def sealed(op: LogModel | LogFile) -> LogModel | LogFile:
    """Note the sha256 of every file, for an operation that has to wait."""
    import dataclasses

    if isinstance(op, LogFile):
        path = Path(op.file)
        return dataclasses.replace(op, sha256=file_sha256(path)) if path.is_file() else op
    folder = Path(op.folder)
    files = {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    return dataclasses.replace(op, files=files)


def record_model(
    client: MlflowClient, op: LogModel, experiment_id: str, run_id: str, folder: Path
) -> tuple[str | None, list[str]]:
    """Log a model as an output of a run; one of the same key is taken instead of a second.

    Args:
        client: The server.
        op: The model.
        experiment_id: Where it belongs.
        run_id: The run that yielded it.
        folder: The working folder; jobs of it do not log the same model at once.

    Returns:
        Its id, or ``None`` when its files are gone; and what is gone, one line each.
    """
    from mlflow.entities import LoggedModelOutput

    lock = place_for(folder, "mlflow") / f"{op.model[:2]}.lock"
    with FileLock(lock, timeout=_LOCK_TIMEOUT_S):
        found = _find(client, experiment_id, op.model)
        if found is None or found.status != "READY":
            problems = _problems(op)
            if problems:
                return None, problems
            # one that is not ready was left by a job that died over it
            model = found or client.create_logged_model(
                experiment_id,
                name=op.name,
                source_run_id=run_id,
                tags={**op.tags, KEY_TAG: op.model},
                params=dict(op.params),
                model_type=op.format,
            )
            _upload(client, op, model, run_id)
        else:
            model = found
    outputs = client.get_run(run_id).outputs
    if outputs is None or model.model_id not in [o.model_id for o in outputs.model_outputs or []]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id), []


def _find(client: MlflowClient, experiment_id: str, key: str) -> LoggedModel | None:
    found = client.search_logged_models([experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{key}'")
    return min(found, key=lambda model: model.status != "READY", default=None)


def _problems(op: LogModel) -> list[str]:
    folder = Path(op.folder)
    if op.files is None:
        return [] if folder.is_dir() else [f"{folder} is gone"]
    problems = []
    for name, digest in op.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is gone")
        elif file_sha256(path) != digest:
            problems.append(f"{path} has changed since")
    return problems


def file_problems(op: LogFile) -> list[str]:
    """Say why a file can't be sent any more, one line each."""
    path = Path(op.file)
    if not path.is_file():
        return [f"{path} is gone"]
    if op.sha256 is not None and file_sha256(path) != op.sha256:
        return [f"{path} has changed since"]
    return []


def _upload(client: MlflowClient, op: LogModel, model: LoggedModel, run_id: str) -> None:
    from mlflow.models import Model

    about = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=run_id,
        model_id=model.model_id,
        signature=_signature(op.signature),
    )
    with tempfile.TemporaryDirectory(prefix="hydrapress-") as scratch:
        place = Path(scratch, "model")
        if op.format == "onnx":
            _write_onnx(Path(op.folder, _ONNX_FILE), place, about)
            # so that the folder is a hydrapress model, too
            others = shutil.ignore_patterns(_ONNX_FILE)
            shutil.copytree(op.folder, place / "hydrapress", ignore=others)
        else:
            shutil.copytree(op.folder, place / "hydrapress")
            about.add_flavor("hydrapress", format=op.format, data="hydrapress")
            about.save(str(place / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(place))
    client.finalize_logged_model(model.model_id, "READY")


def _write_onnx(path: Path, place: Path, about: Model) -> None:
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(
        onnx.load(str(path)),
        str(place),
        mlflow_model=about,
        signature=about.signature,
        # guessing them starts the model in a process of its own, which takes seconds
        pip_requirements=[
            f"{name}=={metadata.version(name)}" for name in ("mlflow", "numpy", "onnx", "onnxruntime")
        ],
        save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
    )


def _signature(data: Mapping[str, Any]) -> ModelSignature | None:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(specs: list[Mapping[str, Any]]) -> Schema:
        return Schema(
            [
                TensorSpec(np.dtype(s["dtype"]), tuple(-1 if n is None else n for n in s["shape"]), s["name"])
                for s in specs
            ]
        )

    try:
        return ModelSignature(schema(data["inputs"]), schema(data["outputs"]))
    except TypeError:  # a type that numpy does not have, such as bfloat16
        return None
