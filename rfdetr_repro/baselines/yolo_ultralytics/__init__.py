"""YOLOv8, YOLO11, YOLO12 and YOLOE, boxes and masks, by the user's own ultralytics (AGPL-3.0): run
in its own process, never imported here.

RFDETR_ULTRALYTICS_PYTHON names the interpreter that has it. Its export is raw, without suppression;
ours is put into the file. Its own count of operations is what its documentation and the paper's
tables print. A YOLOE is measured with its classes inside, as it is deployed: random classes with
random weights, else those that the file of its weights holds.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_repro.baselines.card import Card, read_card
from rfdetr_repro.baselines.package import PackageBaseline

_PROGRAMS = Path(__file__).parent / "programs"


def by_ultralytics(card: Card) -> PackageBaseline:
    """The models of ``card``, whose keys are names of ultralytics."""
    return PackageBaseline(
        card,
        "ultralytics",
        "RFDETR_ULTRALYTICS_PYTHON",
        exporter=_PROGRAMS / "export_ultralytics.py",
        counter=_PROGRAMS / "count_ultralytics.py",
    )


BASELINE = by_ultralytics(read_card(Path(__file__).parent))
