"""``python -m rfdetr_repro.plots``: draws figures from published and stored numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.records import stored
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_records,
    input_folder,
    output_folder,
)
from rfdetr_repro.spec.errors import InputError

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


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figures that ``argv`` names; returns the exit code."""
    options = parser().parse_args(argv)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.records.store import read_stores

    from .figures import Sources, draw_figure

    source = options.records or options.run
    records = read_stores([source] if source else stored.default_campaign())
    wanted = (
        drawable_figures(records, options.run)
        if options.figure == "all"
        else [ALSO.get(options.figure, options.figure)]
    )
    sources = Sources(records, options.run, options.size)
    for figure in wanted:
        for path in draw_figure(figure, sources, options.out, options.format):
            print(path)
    return 0


def drawable_figures(records: Sequence[Record], run: Path | None) -> list[str]:
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
    return sorted(found)
