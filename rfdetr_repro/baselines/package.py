"""Baselines of packages that are never imported here: a program run by the user's own interpreter
exports a raw ONNX file.

The program gets the package's name of the model, the weights (or that name again) and a folder that
is its working directory, writes ``raw.onnx`` and ``exported.json`` there, and ends with ABSENT if
its package cannot be imported, with UNKNOWN if the version of the package does not have the model,
and with OTHER_WEIGHTS if the weights are of another model; its last line says more. This module
does not import PyTorch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.unfinished import temporary_folder

from .baseline import ExportRequest, Size
from .card import Card, CardBaseline

if TYPE_CHECKING:
    from rfdetr_repro.export.artifact import Artifact

# exit codes of a program
ABSENT = 64
UNKNOWN = 65
OTHER_WEIGHTS = 66
LIMIT_S = 1800.0  # the largest models export in minutes
# candidates above the threshold in a model of random weights: its own scores would leave
# suppression no work
INJECTED = 100


class Exported(NamedTuple):
    """``versions`` of the packages in that interpreter."""

    path: Path
    params: int
    versions: dict[str, str]


class PackageBaseline(CardBaseline):
    """A baseline whose package exports, and maybe counts, in a process of its own."""

    def __init__(
        self,
        card: Card,
        package: str,
        variable: str,
        *,
        exporter: Path,
        counter: Path | None = None,
        loads_weights: bool = True,
        own_counter: str = "ultralytics",
    ) -> None:
        """``package``: name to import and to install. ``variable``: environment variable that names
        the interpreter with the package; without the variable, the running interpreter is asked.
        ``exporter``: the program that exports. ``counter``: the program that writes
        ``counted.json`` with parameters and operations; None if there is no such program.
        ``loads_weights``: whether the exporter loads a user's weights. ``own_counter``: name of the
        counter that the package itself has, empty if it has none.
        """
        super().__init__(card)
        self.package_name = package
        self.variable = variable
        self.own_counter = own_counter
        self._exporter = exporter
        self._counter = counter
        self._loads_weights = loads_weights

    @property
    def present(self) -> bool:
        """Whether there is reason to try: the variable is set, or the running interpreter has the
        package.
        """
        return (
            self.variable in os.environ or importlib.util.find_spec(self.package_name) is not None
        )

    @property
    def cannot_count(self) -> str:
        """Why there are no counts here; empty if there are."""
        if self._counter is None:
            return f"{self.package_name} is not asked for counts"
        return "" if self.present else f"{self.package_name} is not installed"

    @property
    def interpreter(self) -> str:
        """The Python that runs the programs."""
        return os.environ.get(self.variable) or sys.executable

    def export(self, size: Size, request: ExportRequest) -> Artifact:
        """Exports a baseline in another process, then adopts the file: suppression and masks become
        part of the graph.
        """
        from .exporting import adopt_export

        with temporary_folder(request.path.parent) as scratch:
            work = Path(scratch, "export")
            work.mkdir()
            exported = self.raw(size, work, request.checkpoint)
            return adopt_export(
                exported.path, size, request, params=exported.params, packages=exported.versions
            )

    def raw(self, size: Size, folder: Path, checkpoint: str | Path | None = None) -> Exported:
        """Raw ONNX file in ``folder`` (which must be empty): random weights, or those of the user's
        ``checkpoint``.

        :class:`InputError` without package, interpreter or file; :class:`StatedFailure` if the
        package fails, with its last line.
        """
        folder = folder.resolve()  # the program runs in it
        weights: str | Path = size.key
        if checkpoint is not None and not self._loads_weights:
            raise InputError(
                f"{size.id} is built with random weights only",
                checkpoint,
                f"export the trained model by {self.package_name} and give --onnx FILE",
            )
        if checkpoint is not None:
            if not Path(checkpoint).is_file():
                raise InputError("the file does not exist", checkpoint)
            # packages write beside the file
            weights = shutil.copy(checkpoint, folder / f"weights{Path(checkpoint).suffix}")
        answer = folder / "exported.json"
        self._run(self._exporter, [size.key, Path(weights).name, str(folder)], answer)
        read = json.loads(answer.read_text(encoding="utf-8"))
        if not (folder / "raw.onnx").is_file():
            raise StatedFailure(f"{self.package_name} did not export {size.key}: it wrote no file")
        return Exported(
            folder / "raw.onnx",
            int(read["params"]),
            {str(name): str(version) for name, version in read["versions"].items()},
        )

    def counts(self, size: Size) -> dict[tuple[str, str], tuple[int, float]]:
        """(counter, form) -> parameters and operations of one image, by the package's own counter
        and those that its interpreter can import.
        """
        if self._counter is None:
            raise InputError(
                f"the parameters and operations of {size.id} are not counted here "
                f"({self.cannot_count})",
                hint="count them with --counters onnx",
            )
        with temporary_folder() as folder:
            card = Path(folder, "counted.json")
            self._run(self._counter, [size.key, str(folder)], card)
            read = json.loads(card.read_text(encoding="utf-8"))
        return {
            (counter, form): (int(params), float(flops)) for counter, form, params, flops in read
        }

    def _run(self, program: Path, arguments: list[str], answer: Path) -> None:
        model = arguments[0]
        request = [self.interpreter, str(program), *arguments]
        hint = (
            f"pip install {self.package_name} ({self.license}) in an environment of its own and "
            f"set {self.variable} to its python, or export the model yourself and give --onnx FILE"
        )
        try:
            done = subprocess.run(
                request,
                cwd=answer.parent,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"{self.package_name} cannot be run: {error}", self.interpreter, hint
            ) from error
        told = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        if done.returncode == ABSENT:
            raise InputError(f"{model} needs {self.package_name} ({told})", self.interpreter, hint)
        if done.returncode == UNKNOWN:
            raise InputError(
                told, self.interpreter, f"install a version of {self.package_name} with this model"
            )
        if done.returncode == OTHER_WEIGHTS:
            raise InputError(told, hint="name the model and the size that the weights are of")
        if done.returncode or not answer.is_file():
            raise StatedFailure(
                f"{self.package_name} did not export {model} (exit code {done.returncode}): {told}"
            )
