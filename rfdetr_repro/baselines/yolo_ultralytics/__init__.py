"""YOLOv8 and YOLO11, boxes and masks, by the user's own ultralytics (AGPL-3.0): run in its own
process, never imported here.

RFDETR_ULTRALYTICS_PYTHON names the interpreter that has it. Its export is raw, without suppression;
ours is put into the file. Its own count of operations is what its documentation and the paper's
tables print.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.package import PackageBaseline

_HERE = Path(__file__).parent

BASELINE = PackageBaseline(
    read_card(_HERE),
    "ultralytics",
    "RFDETR_ULTRALYTICS_PYTHON",
    exporter=_HERE / "programs" / "export_ultralytics.py",
    counter=_HERE / "programs" / "count_ultralytics.py",
)
