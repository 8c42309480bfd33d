"""What the user says of an ONNX file, checked against the choices there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rfdetr_repro.export.artifact import LETTERBOX_RULE, RESIZE_RULE
from rfdetr_repro.export.onnx.surgery import INPUTS
from rfdetr_repro.spec.errors import InputError

from .boxes import BOXES
from .classes import CLASSES
from .forms import FORMS

NORMALISE = tuple(INPUTS)
RESIZE = {"stretch": RESIZE_RULE, "letterbox": LETTERBOX_RULE}


@dataclass(frozen=True)
class Wishes:
    """What the user says of the file; None: to be told from the file. Each is checked against the
    choices named here.

    ``form``: of FORMS. ``normalise``: of NORMALISE, what RGB in 0..1 needs before the file's own
    input. ``resize``: of RESIZE; ``antialias``: whether that averages. ``boxes``: of BOXES.
    ``classes``: of CLASSES. ``shape``: (height, width) of a file that leaves them open.
    """

    form: str | None = None
    normalise: str | None = None
    resize: str | None = None
    antialias: bool | None = None
    boxes: str | None = None
    classes: str | None = None
    shape: tuple[int, int] | None = None

    def check(self, path: str | Path) -> None:
        choices = {
            "form": FORMS,
            "normalise": NORMALISE,
            "resize": tuple(RESIZE),
            "boxes": BOXES,
            "classes": CLASSES,
        }
        for name, known in choices.items():
            if (given := getattr(self, name)) not in (None, *known):
                raise InputError(
                    f"unknown {name} {given!r}", path, f"choose one of {', '.join(known)}"
                )
