"""Draws the paper's figures and a campaign's own from stored numbers, without PyTorch.

    python -m rfdetr_repro.plots --figure 1|2|3|4|5|6|7|pareto|sensitivity|training|all \
        [--records PATH] [--run DIR] [--size NAME] [--format png,svg,pdf] [--out DIR]

Figures have the numbers of the camera-ready (its 7 is 5 in version 1, which has no 5 of its own).
Figures 1 and 7 show published numbers with comparable measurements. Figures 2 (the architecture)
and 3 (the search space) are drawn from the configuration. Figure 4 (decoder layers by queries),
Figure 5 (sensitivity to each knob) and Figure 6 (predictions on images) were published as images
only: 4 and 5 are drawn from a campaign's search, 6 from predictions. "sensitivity" shows Figure 5's
question over pairs that differ in one knob only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO_SPACE, preset

from .architecture import architecture_height_in, draw_architecture
from .detections import Annotations, detections_height_in, draw_detections
from .knobs import decoder_height_in, draw_decoder, draw_knobs, knobs_height_in
from .pareto import draw_pareto, pareto_height_in
from .pictures import draw_pictures, pictures_height_in, run_pictures
from .published import FIGURES, draw_published, published_height_in
from .rivals import (
    compared,
    default_name,
    draw_rivals,
    read_predictions,
    read_truth,
    rivals_height_in,
)
from .sensitivity import draw_sensitivity, sensitivity_height_in
from .space import draw_space, space_height_in
from .style import drawn, save, save_all
from .training import draw_training, read_log

TRAINING_HEIGHT_IN = 2.7
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Rivals:
    """Files of predictions, what to call each model ("" for a name from the file), annotations, the
    folder of the images, and the lowest score that is drawn.
    """

    files: Sequence[Path]
    names: Sequence[str] = ()
    annotations: Path | None = None
    images: Path | None = None
    least: float = 0.3


@dataclass(frozen=True)
class Sources:
    """What figures are drawn from: Records, a run folder, the name of a model size."""

    records: Sequence[Record] = field(default=(), repr=False)
    run: Path | None = None
    size: str = "nano"
    rivals: Rivals | None = None  # files of predictions that figure 6 compares


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn: its function, and its height in inches."""

    draw: Callable[[FigureBase], None]
    height_in: float


def published_figure(number: str | int, path: str | Path, records: Sequence[Record] = ()) -> Path:
    """Figure 1 or 7 of the paper with its published named sizes and comparable ``records``, written
    to ``path``.
    """
    return _saved(_published(str(number), Sources(records)), path)


def pictures_figure(run: str | Path, path: str | Path) -> Path:
    """Predictions of a run on held-out images, the counterpart of Figure 6."""
    return _saved(_pictures(Sources(run=Path(run))), path)


def pareto_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Search points and confirmed frontier of a campaign; see
    :func:`rfdetr_repro.plots.pareto.draw_pareto`.
    """
    return _saved(plan_of("pareto", Sources(records)), path)


def knob_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Effect of the five knobs over all searched configurations, the campaign's counterpart of
    Figure 5; see :func:`rfdetr_repro.plots.knobs.draw_knobs`.
    """
    return _saved(plan_of("5", Sources(records)), path)


def sensitivity_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Paired effect of one step of each knob; see :func:`.draw_sensitivity`."""
    return _saved(plan_of("sensitivity", Sources(records)), path)


def decoder_plot(records: Sequence[Record], path: str | Path) -> Path:
    """Decoder layers by queries, the campaign's counterpart of Figure 4."""
    return _saved(plan_of("4", Sources(records)), path)


def training_plot(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Loss and AP50 over steps; see :func:`.draw_training` for the rows."""
    return save(partial(draw_training, rows=rows), path, TRAINING_HEIGHT_IN)


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


def _published(number: str, sources: Sources) -> Plan:
    draw = partial(draw_published, number=number, records=sources.records)
    return Plan(draw, published_height_in(number, sources.records))


def _architecture(sources: Sources) -> Plan:
    chosen = preset(sources.size)
    draw = partial(draw_architecture, config=chosen.model, arch=chosen.arch, name=sources.size)
    return Plan(draw, architecture_height_in(chosen.model, chosen.arch))


def _space(sources: Sources) -> Plan:
    """The space that the size belongs to: of pico its own, of any other size the paper's."""
    space, name = PAPER_SPACE, "the paper's search space"
    if sources.size == "pico":
        space, name = PICO_SPACE, "the search space of pico"
    arch = preset(sources.size).arch
    draw = partial(draw_space, space=space, arch=arch, name=name)
    return Plan(draw, space_height_in(space, arch))


def rivals_figure(rivals: Rivals, path: str | Path) -> Path:
    """Several models' predictions on the same images, side by side; see :mod:`.rivals`. Raises
    :class:`InputError` for a broken file, an image that is missing, and names that are not one for
    each file.
    """
    return _saved(_rivals(rivals), path)


def _rivals(rivals: Rivals) -> Plan:
    if rivals.names and len(rivals.names) != len(rivals.files):
        raise InputError(
            f"{len(rivals.names)} names for {len(rivals.files)} files of predictions",
            hint="give a name for each file",
        )
    names = list(rivals.names) or list(map(default_name, rivals.files))
    truth = read_truth(rivals.annotations) if rivals.annotations is not None else None
    models = [
        read_predictions(file, name, truth) for file, name in zip(rivals.files, names, strict=True)
    ]
    found = compared(models, truth, rivals.images)
    shown = [*(["ground truth"] if truth is not None else []), *names]
    draw = partial(draw_rivals, pictures=found, names=shown, least=rivals.least)
    return Plan(draw, rivals_height_in(found, rivals.least))


def _pictures(sources: Sources) -> Plan:
    if sources.rivals is not None:
        return _rivals(sources.rivals)
    if sources.run is None:
        raise InputError(
            "Figure 6 shows predictions on images that were never published as data",
            hint="give a run of your own with --run, or files of predictions with --predictions",
        )
    pictures = run_pictures(sources.run)
    return Plan(partial(draw_pictures, pictures=pictures), pictures_height_in(pictures))


def _training(sources: Sources) -> Plan:
    if sources.run is None:
        raise InputError("the training curve needs a run folder", hint="give it with --run")
    rows = read_log(sources.run / "train_log.jsonl")
    return Plan(partial(draw_training, rows=rows), TRAINING_HEIGHT_IN)


def _of_records(
    draw: Callable[..., None], height_in: Callable[[Sequence[Record]], float]
) -> Callable[[Sources], Plan]:
    def plan(sources: Sources) -> Plan:
        return Plan(partial(draw, records=sources.records), height_in(sources.records))

    return plan


_PLANS: dict[str, Callable[[Sources], Plan]] = {
    **{number: partial(_published, number) for number in FIGURES},
    "2": _architecture,
    "3": _space,
    "4": _of_records(draw_decoder, decoder_height_in),
    "5": _of_records(draw_knobs, knobs_height_in),
    "6": _pictures,
    "pareto": _of_records(draw_pareto, pareto_height_in),
    "sensitivity": _of_records(draw_sensitivity, sensitivity_height_in),
    "training": _training,
}


def plan_of(figure: str, sources: Sources) -> Plan:
    """The figure of this name. Raises :class:`InputError` where ``sources`` lack what the figure is
    drawn from.
    """
    if figure not in _PLANS:
        raise InputError(f"unknown figure {figure!r}", hint=f"choose one of {', '.join(_PLANS)}")
    return _PLANS[figure](sources)


def _saved(plan: Plan, path: str | Path) -> Path:
    return save(plan.draw, path, plan.height_in)


def figure_name(figure: str) -> str:
    """The stem of a figure's files: ``figure_1``, or the name of a figure without a number."""
    return f"figure_{figure}" if figure.isdigit() else figure


def draw_figure(
    figure: str, sources: Sources, out: Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draws the figure of this name into the folder ``out``, once for every format, and returns the
    paths. Raises :class:`InputError` where ``sources`` lack what the figure is drawn from.
    """
    plan = plan_of(figure, sources)
    paths = [out / f"{figure_name(figure)}.{suffix}" for suffix in formats]
    save_all(drawn(plan.draw, plan.height_in), paths)
    return paths
