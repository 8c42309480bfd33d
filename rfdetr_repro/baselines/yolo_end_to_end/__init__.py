"""YOLO26, boxes and masks, by the user's own ultralytics (AGPL-3.0, 8.4 or later): run in its own
process, never imported here.

The model chooses its detections itself, so its export needs no suppression: rows of box, score,
class and, with masks, weights of prototypes. RFDETR_ULTRALYTICS_PYTHON names the interpreter that
has the package, as for the other YOLOs of ultralytics.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.baselines.card import read_card
from rfdetr_repro.baselines.yolo_ultralytics import by_ultralytics

BASELINE = by_ultralytics(read_card(Path(__file__).parent))
