"""GFLOPs of the paper's RF-DETR rows computed from their architecture alone: arithmetic, no
measurement and no Record.

Two conventions reproduce every printed value: Tables 2, 3 and 12 to 17 count upstream's evaluation
forward ("eager" of ``rfdetr_repro.spec.flops``); Tables 5, 6 and v2 19 count the same without the
attention products.
"""

from __future__ import annotations

from dataclasses import replace

from rfdetr_repro.paper.cells import Row
from rfdetr_repro.spec.flops import flops_by_part
from rfdetr_repro.spec.presets import PRESETS

from .format import COMPUTED, Cell

CONVENTION = "computed from the architecture by rfdetr_repro.spec.flops, convention eager"
WITHOUT_ATTENTION = "without attention products"
_ATTENTION = ("backbone attention", "decoder attention")
SIZES = {
    "N": "nano",
    "S": "small",
    "M": "medium",
    "L": "large",
    "XL": "xlarge",
    "2XL": "2xlarge",
    "MAX": "max",
}


def without_attention(table: str) -> bool:
    """Whether the GFLOPs of a table leave out the attention products."""
    return table in ("5", "6", "v2_19")


def preset_name(row: Row) -> str:
    """The preset of an RF-DETR row with a size, e.g. ``seg-nano``; "" for any other row."""
    model = row.identity.model
    name = SIZES.get((model.size or "").upper(), "")
    if row.arch is None or not name:
        return ""
    return f"seg-{name}" if model.task == "segment" else name


def computed_gflops(row: Row) -> Cell | None:
    """GFLOPs (2 per multiply-add) of the row's architecture; ``None`` if it is not an RF-DETR of
    one architecture.
    """
    if row.arch is None:
        return None
    name = preset_name(row)
    nano = PRESETS["nano"].model  # Table 5 changes the patch and the layers of the S family
    model = (
        PRESETS[name].model
        if name
        else replace(nano, patch=row.arch.patch, decoder_layers=row.arch.decoder_layers)
    )
    parts = flops_by_part(model, row.arch, "eager")
    total = sum(
        value
        for part, value in parts.items()
        if not (without_attention(row.table) and part in _ATTENTION)
    )
    return Cell(f"{total / 1e9:.1f}", COMPUTED, total / 1e9)
