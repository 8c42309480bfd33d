"""``python -m reports.roofline``: how near the attention operators come to what the processor can
do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.spec.arguments import ArgumentParser, input_file, output_file


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "reports.roofline",
        description="Draws the speed of the attention operators against the measured limit of the "
        "processor: a figure from the numbers of a benchmark run.",
        examples=("roofline operators.json --out roofline.png",),
    )
    arguments.add_argument(
        "benchmarks", type=input_file, help="JSON file that pytest-benchmark wrote"
    )
    arguments.add_argument(
        "--out",
        type=output_file,
        default=Path("roofline.png"),
        help="picture to write (.png, .pdf or .svg)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure from the benchmark file that ``argv`` names."""
    args = parser().parse_args(argv)
    # loads slowly; the arguments are checked first
    from rfdetr_repro.plots.style import save

    from .roofline import draw, rows_of

    rows = rows_of(args.benchmarks)
    save(lambda figure: draw(figure, rows), args.out, height_in=3.2)
    print(f"{args.out}: {len(rows)} cases")
    return 0
