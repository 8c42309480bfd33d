"""``python -m rfdetr_repro.plots``: draws figures from published and stored numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.records import stored
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_records,
    input_folder,
    output_folder,
)

# figures that are drawn from a paper's own numbers, then those of a campaign
PUBLISHED = ("1", "5")
CAMPAIGN = ("pareto", "knobs", "sensitivity", "4", "training", "6")
# the camera-ready's numbers
ALSO = {"7": "5", "v2_7": "5", "v2_5": "knobs", "v2_4": "4", "v2_1": "1"}


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        prog="rfdetr_repro.plots",
        description=(
            "Draws the figures of the paper and of a campaign from published and stored numbers."
        ),
        examples=(
            "plots --figure 1",
            "plots --run runs/mine --out figures",
        ),
    )
    arguments.add_argument(
        "--figure",
        default="all",
        choices=[*PUBLISHED, *CAMPAIGN, *ALSO, "all"],
        help="figure to draw (default: all that can be drawn)",
    )
    add_records(arguments, f"those of --run; without a run {stored.DEFAULT_OF_CAMPAIGN}")
    arguments.add_argument(
        "--run",
        type=input_folder,
        help="run folder whose Records, training log and predictions are drawn",
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
    from rfdetr_repro.records.sensitivity import comparable_searches, sensitivity
    from rfdetr_repro.records.store import read_stores

    from .figures import draw_figure

    source = options.records or options.run
    records = read_stores([source] if source else stored.default_campaign())
    if options.figure != "all":
        wanted = [ALSO.get(options.figure, options.figure)]
    else:
        has_log = options.run is not None and (options.run / "train_log.jsonl").exists()
        searched = any(record.source == "search" for record in records)
        paired = any(map(sensitivity, comparable_searches(records)))
        wanted = [
            *PUBLISHED,
            *(["pareto", "knobs", "4"] if searched else []),
            *(["sensitivity"] if paired else []),
            *(["training"] if has_log else []),
        ]
        wanted += (
            ["6"]
            if options.run is not None and any((options.run / "predictions").glob("*.png"))
            else []
        )
    for figure in wanted:
        print(draw_figure(figure, records, options.run, options.out))
    return 0
