"""Other detectors for the same table, one folder each, and those that other packages register."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "Baseline": "baseline",
        "ExportRequest": "baseline",
        "HasCounts": "baseline",
        "HasModule": "baseline",
        "Size": "baseline",
        "adopt_export": "exporting",
        "entries": "catalog",
        "export_module": "exporting",
        "read_card": "card",
    },
)
