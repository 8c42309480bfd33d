"""Builds RT-DETRv2: transformers' port with the settings of ``baseline.toml``.

Backbone, pyramid and deployed form are those of version 1; the decoder's attention is version 2's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.rt_detr.adapter import deployed, evaluated, fields_of, finished

__all__ = ["CARD", "build", "deployed", "evaluated"]

CARD = read_card(Path(__file__).parent)


def build(size: str, num_classes: int = 80, **changes: Any) -> Any:
    """transformers' detector, weights as its own initialisation draws them.

    ``changes`` replace fields of its configuration.
    """
    import transformers.models.rt_detr_v2 as library

    row = CARD.by_key(size).settings
    settings: Any = library.RTDetrV2Config  # its type stubs lack inherited settings
    configuration = settings(**fields_of(row, num_classes) | changes)
    return finished(library.RTDetrV2ForObjectDetection(configuration), row)
