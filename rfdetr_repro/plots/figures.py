"""Draws the paper's figures and a campaign's own from stored numbers, without PyTorch.

    python -m rfdetr_repro.plots --figure 1|4|5|6|pareto|knobs|sensitivity|training|all \
        [--records PATH] [--run DIR] [--out DIR]

Figures have the numbers of the paper's version 1 (5 is 7 in the camera-ready). Figures 1 and 5 show
published numbers with comparable measurements. Figure 4 (decoder layers by queries) and Figure 6
(predictions on images) were published as images only: Figure 4 is drawn from a campaign's search,
Figure 6 from a run's predictions. The camera-ready's Figure 5, sensitivity to each knob, is "knobs"
here, as means over all configurations, and "sensitivity", over pairs that differ in one knob only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.errors import InputError

from .detections import Annotations, detections_height_in, draw_detections
from .knobs import draw_decoder, draw_knobs
from .pareto import draw_pareto, pareto_height_in
from .pictures import draw_pictures, pictures_height_in, run_pictures
from .published import FIGURES, draw_published
from .sensitivity import draw_sensitivity, sensitivity_height_in
from .style import save
from .training import draw_training, read_log

HEIGHTS_IN = {"knobs": 6.4, "4": 5.4, "training": 2.7}


def published_figure(number: str | int, path: str | Path, records: Sequence[Record] = ()) -> Path:
    """Figure 1 or 5 of the paper with its published named sizes and comparable ``records``, written
    to ``path``.
    """
    _, _, _, height_in = FIGURES.get(str(number), ("", 0, 0, 1.0))
    return save(partial(draw_published, number=str(number), records=records), path, height_in)


def pictures_figure(run: str | Path, path: str | Path) -> Path:
    """Predictions of a run on held-out images, the counterpart of Figure 6."""
    pictures = run_pictures(run)
    return save(partial(draw_pictures, pictures=pictures), path, pictures_height_in(pictures))


def pareto_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Search points and confirmed frontier of a campaign; see
    :func:`rfdetr_repro.plots.pareto.draw_pareto`.
    """
    return save(partial(draw_pareto, records=records), path, pareto_height_in(records))


def knob_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Effect of the five knobs over all searched configurations; see
    :func:`rfdetr_repro.plots.knobs.draw_knobs`.
    """
    return save(partial(draw_knobs, records=records), path, HEIGHTS_IN["knobs"])


def sensitivity_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Paired effect of one step of each knob; see :func:`.draw_sensitivity`."""
    return save(partial(draw_sensitivity, records=records), path, sensitivity_height_in(records))


def decoder_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Decoder layers by queries, the campaign's counterpart of Figure 4."""
    return save(partial(draw_decoder, records=records), path, HEIGHTS_IN["4"])


def training_plot(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Loss and AP50 over steps; see :func:`.draw_training` for the rows."""
    return save(partial(draw_training, rows=rows), path, HEIGHTS_IN["training"])


def detections_figure(
    images: Sequence[NDArray[np.uint8]],
    predictions: Sequence[Annotations],
    path: str | Path,
    *,
    truths: Sequence[Annotations] | None = None,
    class_names: Sequence[str] = (),
    min_score: float = 0.3,
    columns: int = 2,
) -> Path:
    """Draws predictions, and ground truth if given, on uint8 (H, W, 3) images; see
    :class:`.Annotations`.
    """
    draw = partial(
        draw_detections,
        images=images,
        predictions=predictions,
        truths=truths,
        class_names=class_names,
        min_score=min_score,
        columns=columns,
    )
    return save(draw, path, detections_height_in(len(images), truths is not None, columns))


CAMPAIGN = {
    "pareto": pareto_plot,
    "knobs": knob_plot,
    "sensitivity": sensitivity_plot,
    "4": decoder_plot,
}


def draw_figure(figure: str, records: Sequence[Record], run: Path | None, out: Path) -> Path:
    """Draws the figure of this name into the folder ``out`` and returns the picture's path.

    ``run``: the run folder that figure 6 and the training curve are drawn from; without it they
    are an :class:`InputError`.
    """
    path = out / (f"figure{figure}.png" if figure.isdigit() else f"{figure}.png")
    if figure in FIGURES:
        return published_figure(figure, path, records)
    if figure == "6":
        if run is None:
            raise InputError(
                "Figure 6 shows predictions on images that were never published as data",
                hint="give a run of your own with --run",
            )
        return pictures_figure(run, path)
    if figure == "training":
        if run is None:
            raise InputError("the training curve needs a run folder", hint="give it with --run")
        return training_plot(read_log(run / "train_log.jsonl"), path)
    return CAMPAIGN[figure](records, path)
