"""``python -m rfdetr_repro.plots``: draws figures from published and stored numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.records import stored
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    input_file,
    input_folder,
    number,
    output_folder,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import preset
from rfdetr_repro.spec.shared_arguments import add_records

if TYPE_CHECKING:
    from .figures import Rivals

# figures that need nothing but the package, then those of a campaign
ALWAYS = ("1", "2", "3", "7")
CAMPAIGN = ("4", "5", "6", "pareto", "sensitivity", "training")
# other names: those of the camera-ready with its prefix, and the number of version 1
ALSO = {**{f"v2_{number}": str(number) for number in range(1, 8)}, "v1_5": "7", "knobs": "5"}
_FORMATS = ("png", "svg", "pdf")


def formats(text: str) -> tuple[str, ...]:
    """Names of file formats, separated by commas. Raises :class:`InputError` for others."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if unknown := [name for name in names if name not in _FORMATS]:
        raise InputError(
            f"figures cannot be written as {unknown[0]!r}",
            "--format",
            f"choose from {', '.join(_FORMATS)}, separated by commas",
        )
    return names


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        prog="rfdetr_repro.plots",
        description=(
            "Draws the figures of the paper and of a campaign from published and stored numbers. "
            "Files are called figure_1.png and so on, by the numbers of the camera-ready."
        ),
        examples=(
            "plots --figure 1",
            "plots --figure 2 --size medium --format svg,pdf",
            "plots --run runs/mine --out figures",
            "plots --figure 6 --predictions ours/predictions.json theirs/predictions.json",
        ),
    )
    arguments.add_argument(
        "--figure",
        default="all",
        choices=[*sorted([*ALWAYS, *CAMPAIGN]), *ALSO, "all"],
        help="figure to draw (default: all that can be drawn)",
    )
    add_records(arguments, f"those of --run; without a run {stored.DEFAULT_OF_CAMPAIGN}")
    arguments.add_argument(
        "--run",
        type=input_folder,
        help="run folder whose Records, training log and predictions are drawn",
    )
    arguments.add_argument(
        "--size",
        default="nano",
        help="model size whose architecture figures 2 and 3 show (default: nano)",
    )
    _add_rivals(arguments)
    arguments.add_argument(
        "--format",
        type=formats,
        default=("png",),
        metavar="FORMAT[,FORMAT]",
        help="file formats: png, svg, pdf, separated by commas (default: png)",
    )
    arguments.add_argument(
        "--out",
        type=output_folder,
        default=Path("figures"),
        help="folder to write the pictures to (default: figures/)",
    )
    return arguments


def _add_rivals(arguments: argparse.ArgumentParser) -> None:
    add = arguments.add_argument_group("figure 6 with several models").add_argument
    add(
        "--predictions",
        type=input_file,
        nargs="+",
        metavar="FILE.json",
        help="predictions of each model on the same images: the predictions.json of the command "
        "predict, or a COCO results file",
    )
    add("--names", nargs="+", metavar="NAME", help="name of each model (default: from the files)")
    add(
        "--annotations",
        type=input_file,
        metavar="FILE.json",
        help="COCO annotation file, for a column with the ground truth; a COCO results file needs "
        "its annotation file",
    )
    add(
        "--images",
        type=input_folder,
        help="folder of the images (default: the paths in the files of predictions)",
    )
    add(
        "--threshold",
        type=number(0, 1),
        default=0.3,
        help="lowest score, in 0..1, of the predictions that are drawn (default: 0.3)",
    )


def _rivals(options: argparse.Namespace) -> Rivals | None:
    """The files of predictions that were named. Raises :class:`InputError` for what goes with them
    without any.
    """
    if options.predictions is None:
        alone = [name for name in ("names", "annotations", "images") if getattr(options, name)]
        if alone:
            raise InputError(
                "there are no predictions to draw",
                f"--{alone[0]}",
                "give files of predictions with --predictions",
            )
        return None
    from .figures import Rivals

    return Rivals(
        options.predictions,
        options.names or (),
        options.annotations,
        options.images,
        options.threshold,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figures that ``argv`` names; returns the exit code."""
    options = parser().parse_args(argv)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.records.store import read_stores

    from .figures import Sources, draw_figure

    rivals = _rivals(options)
    preset(options.size)  # an unknown name is refused for every figure, drawn from it or not
    source = options.records or options.run
    records = read_stores([source] if source else stored.default_campaign())
    wanted = (
        drawable_figures(records, options.run, rivals)
        if options.figure == "all"
        else [ALSO.get(options.figure, options.figure)]
    )
    sources = Sources(records, options.run, options.size, rivals)
    for figure in wanted:
        for path in draw_figure(figure, sources, options.out, options.format):
            print(path)
    return 0


def drawable_figures(
    records: Sequence[Record], run: Path | None, rivals: Rivals | None = None
) -> list[str]:
    """The figures that can be drawn from these Records and this run folder, in their order."""
    from rfdetr_repro.records.sensitivity import comparable_searches, sensitivity

    from .pareto import drawable_points

    groups = comparable_searches(records)
    found = [*ALWAYS]
    found += ["4", "5"] if groups else []
    found += ["pareto"] if drawable_points(records) else []
    found += ["sensitivity"] if any(map(sensitivity, groups)) else []
    if run is not None:
        found += ["training"] if (run / "train_log.jsonl").exists() else []
        found += ["6"] if any((run / "predictions").glob("*.png")) else []
    found += ["6"] if rivals is not None and "6" not in found else []
    return sorted(found)
