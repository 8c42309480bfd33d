"""Detectors of packages that are never imported here: a script run by the user's own interpreter
exports a raw ONNX file.

The script gets the weights (or a configuration's name) and a folder that is its working directory,
writes ``raw.onnx`` and ``exported.json`` there, and ends with ABSENT if its package cannot be
imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.unfinished import temporary_folder

ABSENT = 64  # exit code of a script without its package
LIMIT_S = 1800.0  # the largest models export in minutes
# candidates above the threshold in a model of random weights: its own scores would leave
# suppression no work
INJECTED = 100


class Package(NamedTuple):
    """``variable``: environment variable that names the interpreter; without it, it is the running
    one.
    """

    name: str
    licence: str
    variable: str
    script: str
    count: str = ""  # script that writes ``counted.json`` with parameters and operations

    @property
    def present(self) -> bool:
        """Whether there is reason to try: the variable is set, or the running interpreter has the
        package.
        """
        return self.variable in os.environ or importlib.util.find_spec(self.name) is not None

    @property
    def interpreter(self) -> str:
        return os.environ.get(self.variable) or sys.executable


class Exported(NamedTuple):
    """``versions`` of the packages in that interpreter."""

    path: Path
    params: int
    versions: dict[str, str]


def export(
    package: Package, model: str, folder: Path, checkpoint: str | Path | None = None
) -> Exported:
    """Raw ONNX file of ``model`` in ``folder`` (which must be empty): random weights, or those of
    the user's ``checkpoint``.

    :class:`InputError` without package, interpreter or file; :class:`StatedFailure` if the package
    fails, with its last line.
    """
    weights = model
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise InputError("no such file", checkpoint)
        # packages write beside the file
        weights = shutil.copy(checkpoint, folder / f"weights{Path(checkpoint).suffix}")
    _run(
        package, package.script, [model, Path(weights).name, str(folder)], folder / "exported.json"
    )
    read = json.loads((folder / "exported.json").read_text(encoding="utf-8"))
    if not (folder / "raw.onnx").is_file():
        raise StatedFailure(f"{package.name} did not export {model}: it wrote no file")
    return Exported(
        folder / "raw.onnx",
        int(read["params"]),
        {str(k): str(v) for k, v in read["versions"].items()},
    )


def counts(package: Package, model: str) -> dict[tuple[str, str], tuple[int, float]]:
    """(counter, form) -> parameters and operations of one image, by the package's own counter and
    those it can import.
    """
    with temporary_folder() as folder:
        card = Path(folder, "counted.json")
        _run(package, package.count, [model, folder], card)
        read = json.loads(card.read_text(encoding="utf-8"))
    return {(counter, form): (int(params), float(flops)) for counter, form, params, flops in read}


def _run(package: Package, script: str, arguments: list[str], answer: Path) -> None:
    model = arguments[0]
    request = [package.interpreter, "-c", script, *arguments]
    hint = (
        f"pip install {package.name} ({package.licence}) in an environment of its own and set "
        f"{package.variable} to its python, "
    )
    hint += "or export the model yourself and give --onnx FILE"
    try:
        done = subprocess.run(
            request, cwd=answer.parent, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"{package.name} cannot be run: {error}", package.interpreter, hint
        ) from error
    told = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
    if done.returncode == ABSENT:
        raise InputError(f"{model} needs {package.name} ({told})", package.interpreter, hint)
    if done.returncode or not answer.is_file():
        raise StatedFailure(
            f"{package.name} did not export {model} (exit code {done.returncode}): {told}"
        )
