"""Opening a model that lies anywhere: a file of some runtime, a checkpoint, a stage's result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .artifacts import (
    ExecuTorchModel,
    ExportedModel,
    FileModel,
    Model,
    OnnxModel,
    OpenVINOModel,
    TFLiteModel,
    TorchModel,
)
from .errors import ConfigError, ModelError

if TYPE_CHECKING:
    from .plugins import Plugins

__all__ = ["open_model"]

_FILES: dict[str, type[FileModel]] = {
    Path(cls.file_name).suffix: cls
    for cls in (OnnxModel, TFLiteModel, OpenVINOModel, ExecuTorchModel, ExportedModel)
}
_CHECKPOINT = "architecture.json"
_DESCRIPTION = "model.json"
_ENTRY = "entry.json"
_ARTIFACT = "artifact"


def open_model(path: Path, plugins: Plugins, trust: tuple[str, ...] = ()) -> Model:
    """Open a model.

    Args:
        path: A file with the suffix of its format; a checkpoint's folder; or the folder of a
            finished stage in a store.
        plugins: Where factories, invariants and formats are looked up.
        trust: Import-path prefixes that a checkpoint's factory may have.

    Raises:
        ConfigError: If there is nothing, or nothing that is known as a model.
        ModelError: If it is not whole or holds what is not allowed.
        BackendError: If the package that reads the format is not installed.
    """
    if path.is_dir():
        return _open_folder(path, plugins, trust)
    if not path.exists():
        raise ConfigError(f"'{path}' does not exist; give {_wanted()}")
    cls = _FILES.get(path.suffix.lower())
    if cls is None:
        raise ConfigError(f"'{path}' has the suffix '{path.suffix}', which is no model's; give {_wanted()}")
    return cls.open(path)


def _open_folder(folder: Path, plugins: Plugins, trust: tuple[str, ...]) -> Model:
    if (folder / _ENTRY).is_file() and (folder / _ARTIFACT).is_dir():
        folder = folder / _ARTIFACT
    if (folder / _CHECKPOINT).is_file():
        return TorchModel.load(folder, plugins, trust)
    if (folder / _DESCRIPTION).is_file():
        # the store's own formats, and those of plugins
        known = [cls for cls in plugins.formats.values() if issubclass(cls, FileModel)]
        fitting = [cls for cls in known if (folder / cls.file_name).is_file()]
        if len(fitting) == 1:
            return fitting[0].load(folder, plugins, trust)
        names = ", ".join(sorted(cls.file_name for cls in known))
        raise ModelError(
            f"{folder}: holds {len(fitting)} model files beside '{_DESCRIPTION}'; it must hold one of {names}"
        )
    raise ConfigError(f"'{folder}' is a folder without a model in it; give {_wanted()}")


def _wanted() -> str:
    return (
        f"a file ({', '.join(sorted(_FILES))}), a checkpoint (a folder with {_CHECKPOINT}) or the folder of "
        "a finished stage in a store ('hydrapress store ls --json' lists them)"
    )
