"""``python -m rfdetr_repro.report``: the report of a run as PDF and HTML."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.records import stored
from rfdetr_repro.spec.arguments import ArgumentParser, input_folder, output_file
from rfdetr_repro.spec.collector import uncollected
from rfdetr_repro.spec.shared_arguments import add_records


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        prog="rfdetr_repro.report",
        description="Writes the report of a run as a PDF and as an HTML page.",
        examples=(
            "report --run runs/mine",
            "report --run runs/mine --out report.pdf",
            "report --paper --out paper.pdf",
        ),
    )
    arguments.add_argument(
        "--run", type=input_folder, help="run folder (default: the newest under runs/)"
    )
    add_records(arguments, f"those of the run; with --paper and no run {stored.DEFAULT}")
    arguments.add_argument(
        "--paper",
        action="store_true",
        help="write every table and figure of the paper with what was measured, instead of the "
        "report of one run",
    )
    arguments.add_argument(
        "--out",
        type=output_file,
        help="PDF to write; the HTML page is written next to it (default: report.pdf in the run "
        "folder, or paper.pdf here)",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report of the run that ``argv`` names."""
    options = parser().parse_args(argv)
    with uncollected():
        # loads slowly; the arguments are checked first
        from .build import build_paper, build_report, newest_run

        if options.paper:
            path = build_paper(options.out or "paper.pdf", options.run, options.records)
        else:
            path = build_report(options.run or newest_run(), options.out, options.records)
    print(path)
    print(path.with_suffix(".html"))
    return 0
