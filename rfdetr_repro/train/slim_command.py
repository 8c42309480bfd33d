"""``python -m rfdetr_repro.train.slim``: a trained model as a small float16 file."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, label, output_file
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_source import model_source

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``python -m rfdetr_repro.train.slim``."""
    arguments = ArgumentParser(
        "rfdetr_repro.train.slim",
        description=(
            "Writes the weights of a trained model as float16, without the state of the optimizer."
        ),
        examples=("slim runs/mine/supernet.safetensors small.safetensors",),
    )
    arguments.add_argument(
        "source",
        type=model_source,
        metavar="MODEL",
        help="model file of a run (.safetensors), or its run folder",
    )
    arguments.add_argument("target", type=output_file, help="file to write (.safetensors)")
    arguments.add_argument("--note", type=label, help="a note to store in the file")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command ``python -m rfdetr_repro.train.slim``."""
    args = parser().parse_args(argv)
    if args.target.suffix != ".safetensors":
        raise InputError("the target is not a .safetensors file", args.target)
    # loads slowly; the arguments are checked first
    import torch

    from .slim import slim

    torch.set_num_threads(1)
    path, note = args.source.weights()
    if note:
        log.info(note)
    digest = slim(path, args.target, args.note or "")
    print(f"{args.target}  {args.target.stat().st_size / 1e6:.1f} MB  sha256 {digest}")
