"""The counterpart of the paper's Figure 6: predictions of a run on held-out images, as the run drew
them, with their captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import FigureBase
from matplotlib.image import imread
from numpy.typing import NDArray

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json

from .layout import foot_height_in, foot_line, heading, wrapped
from .style import BLACK, WIDTH_IN, drawable

_HEAD_IN = 0.4
_CAPTION_IN = 0.34
_MARGIN = 0.02
ORIGIN = (
    "Measured here, from the run's exported file. The paper's Figure 6 (arXiv 2511.09554) exists "
    "as an image only."
)


@dataclass(frozen=True)
class Picture:
    """A drawn picture, float (H, W, 3 or 4) in 0..1, and its caption."""

    pixels: NDArray[np.float32]
    caption: str

    @property
    def height_in(self) -> float:
        """Height in inches at the report's width."""
        height, width = self.pixels.shape[:2]
        return (1 - 2 * _MARGIN) * WIDTH_IN * height / width


def run_pictures(run: str | Path) -> list[Picture]:
    """The pictures of ``run/predictions`` with the captions of ``run/predictions.json``; raises
    :class:`InputError` if there are no pictures, and for a broken file.
    """
    folder = Path(run) / "predictions"
    captions = read_captions(Path(run) / "predictions.json")
    pictures = []
    for path in sorted(folder.glob("*.png")):
        try:
            pixels = np.asarray(imread(path), dtype=np.float32)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(
                f"not a picture ({error})", path, "remove it and draw it again"
            ) from error
        pictures.append(Picture(pixels, captions.get(path.name, path.stem)))
    if not pictures:
        raise InputError(
            "there are no predictions to show",
            folder,
            "a run of python -m rfdetr_repro.reproduce draws them",
        )
    return pictures


def read_captions(path: Path) -> dict[str, str]:
    """File name to caption, from a JSON list of objects with ``file`` and ``caption``; empty if the
    file does not exist. Raises :class:`InputError` for anything else.
    """
    rows = read_json(path) if path.exists() else []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("file"), str) for row in rows
    ):
        raise InputError(
            "not a list of pictures with their captions",
            path,
            "remove the file, or draw the pictures again",
        )
    return {Path(row["file"]).name: str(row.get("caption", "")) for row in rows}


def pictures_height_in(pictures: Sequence[Picture]) -> float:
    """Height of a figure that shows ``pictures`` one below the other at the report's width."""
    shown = sum(picture.height_in + _CAPTION_IN for picture in pictures)
    return _HEAD_IN + shown + foot_height_in(ORIGIN, _MARGIN)


def draw_pictures(figure: FigureBase, pictures: Sequence[Picture]) -> None:
    """Draws every picture at full width below its caption."""
    total = pictures_height_in(pictures)
    heading(figure, "Predictions on held-out images", _MARGIN)
    top = total - _HEAD_IN
    for picture in pictures:
        lines = wrapped(drawable(picture.caption), (1 - 2 * _MARGIN) * WIDTH_IN, 7.0)
        caption = "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
        figure.text(_MARGIN, (top - 0.06) / total, caption, fontsize=7.0, color=BLACK, va="top")
        top -= _CAPTION_IN + picture.height_in
        axes = figure.add_axes((_MARGIN, top / total, 1 - 2 * _MARGIN, picture.height_in / total))
        axes.imshow(picture.pixels, aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
    foot_line(figure, ORIGIN, _MARGIN)
