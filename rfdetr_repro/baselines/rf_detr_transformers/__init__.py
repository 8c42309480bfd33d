"""RF-DETR as transformers rewrote it: another program for the same model, in the sizes of ours that
have one pyramid level.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.baselines.baseline import Size
from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.library import LibraryBaseline
from rfdetr_repro.spec.presets import PRESETS


def _size(preset: str) -> Size:
    row = PRESETS[preset]
    return Size(
        id=f"rfdetr-{preset}@transformers",
        family="rfdetr-transformers",
        name="RF-DETR-Seg (transformers)" if row.model.masks else "RF-DETR (transformers)",
        size=preset.removeprefix("seg-"),
        key=preset,
        num_classes=91,
        hw=row.arch.input_hw,
        normalise="imagenet",
        masks=row.model.masks,
    )


class PresetBaseline(LibraryBaseline):
    """Its adapter builds from our configurations."""

    def build(self, size: Size, num_classes: int) -> Any:
        """The library's model of our preset ``size.key``."""
        preset = PRESETS[size.key]
        model = replace(preset.model, num_classes=num_classes)
        return self.adapter.build(model, preset.arch.windows).eval()


BASELINE = PresetBaseline(
    replace(
        read_card(Path(__file__).parent),
        # theirs has one pyramid level
        sizes=tuple(_size(name) for name, row in PRESETS.items() if row.model.levels == ("P4",)),
    ),
    f"{__name__}.adapter",
    class_head="class_embed.weight",
    dynamo=True,
)
