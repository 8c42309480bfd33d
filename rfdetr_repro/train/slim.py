"""A trained model as a small file: float16 weights with their card, for publication or a
repository.

python -m rfdetr_repro.train.slim RUN/supernet.safetensors OUT.safetensors [--note "trained how"]

Readers load it as float32; a weight changes by at most half a unit in the last of float16's 11
bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rfdetr_repro.model.checkpoints.native import load_supernet, save_detector
from rfdetr_repro.spec.arguments import input_file, label, output_file
from rfdetr_repro.spec.errors import ArgumentParser, InputError, run_main


def slim(source: str | Path, target: str | Path, note: str = "") -> str:
    """Writes ``target``, returns its SHA-256.

    A weight beyond float16's range is an :class:`InputError`.
    """
    detector, card, digest = load_supernet(source)
    state = detector.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.half().isfinite().all():
            raise InputError(f"{name} does not fit into float16", source, "keep the float32 file")
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    notes = "; ".join(part for part in (card.notes, note, f"float16 of {digest[:12]}") if part)
    return save_detector(target, half, replace(card, notes=notes))


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("rfdetr_repro.train.slim", description="Weights of a model as float16.")
    parser.add_argument("source", type=input_file, help="model file of a run (.safetensors)")
    parser.add_argument("target", type=output_file, help="file to write (.safetensors)")
    parser.add_argument("--note", type=label, help="a note that is kept in the file")
    args = parser.parse_args(argv)
    if args.target.suffix != ".safetensors":
        raise InputError("the target is no .safetensors file", args.target)
    torch.set_num_threads(1)
    digest = slim(args.source, args.target, args.note or "")
    print(f"{args.target}  {args.target.stat().st_size / 1e6:.1f} MB  sha256 {digest}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
