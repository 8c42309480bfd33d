"""YOLOX and YOLOv9, the detectors with suppression under a permissive licence, by libreyolo (MIT)
in a process of its own.

libreyolo imports torchvision, which need not fit the torch that runs here, so it has an interpreter
of its own, too: RFDETR_LIBREYOLO_PYTHON names it. Random weights by size only; trained ones are
exported by libreyolo and given with --onnx.
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
    exporter=_HERE / "programs" / "export_libreyolo.py",
    loads_weights=False,
)
