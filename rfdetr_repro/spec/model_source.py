"""What ``--model`` names, in every command: a size, a file with weights, an ONNX file or an engine,
or a run folder.

The name of a size comes first; ``./nano`` names a file or a folder of that name. A run folder
stands for one file in the folder, by one of two rules: :meth:`ModelSource.weights` for commands
that need weights, :func:`rfdetr_repro.export.deployed.file_of_run` for commands that run the
deployed file. This module loads no checkpoint and needs no PyTorch.
"""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, nearest, shortened
from .presets import PICO_WEIGHTS, PRESETS, preset

FAMILY = "rfdetr-"
# of the files that hold one deployed model
ONNX = ".onnx"
ENGINES = (".engine", ".plan", ".trt")
# weights that a training run leaves in its folder, the finished model first
RUN_WEIGHTS = ("supernet.safetensors", "best.safetensors")
MODEL_HELP = (
    "model: a file (checkpoint, ONNX file or engine), a run folder, or the name of a size such as "
    "nano"
)
# sizes whose weights come with the package
SHIPPED = {"pico": PICO_WEIGHTS}


@dataclass(frozen=True)
class ModelSource:
    """A model as a command line names it.

    ``text``: as written; ``size``: the name of a size, else None; ``path``: a file or folder that
    exists, else None. Exactly one of ``size`` and ``path`` is given.
    """

    text: str
    size: str | None = None
    path: Path | None = None

    @classmethod
    def at(cls, path: Path) -> ModelSource:
        """The model in a file or folder, which need not exist."""
        return cls(str(path), path=path)

    @property
    def place(self) -> Path:
        """The file or folder. Raises :class:`InputError` for the name of a size."""
        if self.path is None:
            raise InputError(
                f"{self.text} is the name of a size, and a file is needed",
                hint="give a file or a run folder",
            )
        return self.path

    @property
    def kind(self) -> str:
        """One of size, run, onnx, engine, torch (a file with weights and a manifest: an artifact
        for PyTorch) and weights.
        """
        path = self.path
        if path is None:
            return "size"
        if path.is_dir():
            return "weights" if is_transformers_folder(path) else "run"
        suffix = path.suffix.lower()
        if suffix == ONNX:
            return "onnx"
        if suffix in ENGINES:
            return "engine"
        return "torch" if os.path.lexists(path.with_name(f"{path.name}.json")) else "weights"

    def __str__(self) -> str:
        return self.text

    def weights(self) -> tuple[Path, str]:
        """The file with the model's weights, and a sentence that names the file where the command
        line does not.

        Of a run folder: the finished model of its training, ``supernet.safetensors``, or the best
        weights so far of an unfinished training. Of a size: the weights that come with the package.
        Raises :class:`InputError` where there are none.
        """
        if self.size is not None:
            return _shipped(self.size, self.text)
        if self.kind == "run":
            found = run_weights(self.place)
            return found, f"{self.text}: weights of {found}"
        if self.kind in ("onnx", "engine"):
            raise InputError(
                "this file is a deployed model; its weights cannot be trained or exported again",
                self.place,
                "give the checkpoint that the file was exported from, or its run folder",
            )
        return self.place, ""

    def run_folder(self) -> Path:
        """The run folder, for commands that write to the folder. A file called
        ``supernet.safetensors`` names its own folder. Raises :class:`InputError` for anything else.
        """
        if self.kind == "run":
            return self.place
        if self.path is not None and self.path.name == RUN_WEIGHTS[0]:
            return self.path.parent
        raise InputError(
            "the results are written to the folder of the supernet, and this is no run folder",
            self.text,
            f"give the folder that holds {RUN_WEIGHTS[0]}",
        )


def _shipped(size: str, text: str) -> tuple[Path, str]:
    path = SHIPPED.get(size)
    if path is None:
        raise InputError(
            f"no trained weights of the size {size} come with this package",
            hint=f"give a checkpoint as the model, with --size {size} if the file does not state "
            f"its size",
        )
    return path, f"{text}: the weights that come with this package, {path.name}"


def run_weights(folder: Path) -> Path:
    """The weights in a run folder: see :meth:`ModelSource.weights`."""
    for name in RUN_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        "the folder holds no trained model",
        folder,
        f"give a run folder with {RUN_WEIGHTS[0]}, or a file",
    )


def is_transformers_folder(path: Path) -> bool:
    """Whether the folder holds weights by the name that transformers gives them."""
    return (path / "model.safetensors").is_file()


def size_named(text: str) -> str | None:
    """The size that ``text`` names, such as ``nano`` or ``rfdetr-nano``; None for other text."""
    name = text.strip().lower().removeprefix(FAMILY)
    try:
        preset(name)
    except InputError:
        return None
    return name


def model_source(text: str) -> ModelSource:
    """The type of ``--model``: a size, or an existing file or folder.

    Raises argparse's ArgumentTypeError for anything else, with the nearest size.
    """
    if not text.strip() or "\0" in text:
        raise ArgumentTypeError(f"{shortened(repr(text), 80)} is not a model")
    size = size_named(text)
    if size is not None:
        return ModelSource(text, size=size)
    path = Path(text)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(_unknown(text, error)) from error
    return ModelSource(text, path=path)


def source_at(model: str | os.PathLike[str]) -> ModelSource:
    """The same from Python: a size's name or a path. Raises :class:`InputError`."""
    try:
        return model_source(os.fspath(model))
    except ArgumentTypeError as error:
        raise InputError(str(error)) from error


def _unknown(text: str, error: Exception) -> str:
    shown = shortened(repr(text), 80, 45)
    if text.startswith(("http://", "https://")):
        return f"{shown} is on the web, and nothing is downloaded; download the file first"
    reason = getattr(error, "strerror", None) or error
    near = None if "/" in text or "." in text else nearest(text, [*PRESETS, *SHIPPED])
    hint = f"; did you mean the size {near}?" if near else ""
    return f"cannot read {shown}: {reason}{hint}"
