"""A public benchmark of architecture search for detection: every configuration of a space with the
objects that it finds in each image, so that a search costs no network pass. Needs no PyTorch
(docs/nasbench.md).
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "Answer": "bench",
        "NasBench": "bench",
        "SPACE": "space",
    },
)
