"""TensorRT engines: building, what their layers compute in, and the CUDA device they run on."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "BuildOptions": "engine",
        "build_engine": "engine",
    },
)
