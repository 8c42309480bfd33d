"""Lists the baselines that can be named in --models.

python -m rfdetr_repro.baselines
python -m rfdetr_repro.baselines --names dfine-s,lwdetr-small
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser

from .catalog import Entry, entries, entry

HEADER = ("model", "name", "size", "input", "params M", "GFLOPs", "license", "provided by")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = ArgumentParser(
        "rfdetr_repro.baselines",
        description="Lists the other detectors that rfdetr-repro bench --models can measure. "
        "Parameters and GFLOPs are those that the authors state; - means that none are known.",
        examples=(
            "baselines",
            "baselines --names dfine-s,lwdetr-small",
        ),
    )
    arguments.add_argument(
        "--names",
        help="names of models, separated by commas: list these alone, and say of each where its "
        "trained weights come from",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the list; :class:`InputError` for a name that is not known."""
    args = parser().parse_args(argv)
    if args.names is None:
        print(table(entries()))
        return
    for name in map(str.strip, args.names.split(",")):
        known = entry(name)
        print(table({name: known}))
        print(f"weights: {known.baseline.weights}")
        if known.baseline.torch_only:
            print(f"PyTorch only: {known.baseline.torch_only}")


def table(found: dict[str, Entry]) -> str:
    """A row of text per model, in columns."""
    rows = [HEADER, *(_row(name, known) for name, known in found.items())]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(name: str, known: Entry) -> tuple[str, ...]:
    size = known.size
    height, width = size.hw
    params = "-" if size.params_m is None else f"{size.params_m:g}"
    gflops = "-" if size.gflops is None else f"{size.gflops:g}"
    shown = f"{size.name} masks" if size.masks else size.name
    license = known.baseline.license
    return (name, shown, size.size, f"{height}x{width}", params, gflops, license, known.provider)
