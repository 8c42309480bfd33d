"""DEIMv2 (arXiv 2509.20787), as transformers ports it (>= 5.23)."""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.library import LibraryBaseline

BASELINE = LibraryBaseline(
    read_card(Path(__file__).parent),
    f"{__name__}.adapter",
    class_head="model.decoder.class_embed.0.weight",
    since="5.23",
)
