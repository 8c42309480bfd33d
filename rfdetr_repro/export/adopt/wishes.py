"""The user's statements about an ONNX file, checked against the known choices."""

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
    """The user's statements about a file; a field that is None is inferred from the file.

    ``form``: one of FORMS. ``normalise``: one of NORMALISE, the conversion from RGB in 0..1 to the
    file's own input. ``resize``: one of RESIZE; ``antialias``: whether the resize averages.
    ``boxes``: one of BOXES. ``classes``: one of CLASSES. ``shape``: (height, width) for a file that
    leaves the size open.
    """

    form: str | None = None
    normalise: str | None = None
    resize: str | None = None
    antialias: bool | None = None
    boxes: str | None = None
    classes: str | None = None
    shape: tuple[int, int] | None = None

    def check(self, path: str | Path) -> None:
        """Raises :class:`InputError` for a value that is not one of the known choices."""
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
