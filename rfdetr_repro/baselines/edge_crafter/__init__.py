"""EdgeCrafter (arXiv 2603.18739), boxes and masks, by libreyolo (MIT) in a process of its own.

libreyolo ported the authors' program while it was under Apache-2.0; the authors have since put it
under a licence that forbids commercial use. RFDETR_LIBREYOLO_PYTHON names the interpreter that has
libreyolo. Random weights only; trained models are exported by libreyolo and given with --onnx.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.package import PackageBaseline

_HERE = Path(__file__).parent

BASELINE = PackageBaseline(
    read_card(_HERE),
    "libreyolo",
    "RFDETR_LIBREYOLO_PYTHON",
    exporter=_HERE / "programs" / "export_edgecrafter.py",
    counter=_HERE / "programs" / "count_edgecrafter.py",
    own_counter="",
    loads_weights=False,
)
