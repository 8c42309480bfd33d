"""The embedded data set, composed from a few drawn objects and a seed."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "EmbeddedConfig": "dataset",
        "write_embedded": "dataset",
    },
)
