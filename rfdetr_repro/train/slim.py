"""A trained model as a small file: float16 weights with their card, for publication or a
repository.

python -m rfdetr_repro.train.slim RUN/supernet.safetensors OUT.safetensors [--note "trained how"]

Readers load it as float32; a weight changes by at most half a unit of the last of float16's 11
significant bits.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.train.slim_command").run()

from dataclasses import replace
from pathlib import Path

from rfdetr_repro.model.checkpoints.native import load_supernet, save_detector
from rfdetr_repro.spec.errors import InputError


def slim(source: str | Path, target: str | Path, note: str = "") -> str:
    """Writes ``target`` and returns its SHA-256.

    Raises :class:`InputError` for a weight beyond float16's range.
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
