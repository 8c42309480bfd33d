"""The whole flow: data, training, search, artifacts, measurement, report."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "Reproduction": "run",
    },
)
