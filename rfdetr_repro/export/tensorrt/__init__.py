"""TensorRT engines: building, the precision of their layers, and the CUDA device that they run
on.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "BuildOptions": "engine",
        "build_engine": "engine",
    },
)
