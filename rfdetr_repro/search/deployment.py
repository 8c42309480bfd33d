"""What the found models will run on.

Every latency of a search, modelled or measured, belongs to one deployment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rfdetr_repro.bench.accuracy import audit_feeds
from rfdetr_repro.bench.gpu.device import Watched, uses_gpu, watching
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import Artifact, load_artifact, manifest_path
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import OF_ONNX, WITH_GRAPH

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Deployment:
    """A backend of ``runtime/backends.py`` that takes ONNX files, their precision, and whether a
    CUDA graph is replayed.
    """

    backend: str = "onnxruntime"
    precision: str = "fp32"
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.backend not in OF_ONNX or self.precision not in PRECISIONS:
            told = f"no search for {self.backend} {self.precision}"
            raise InputError(
                told,
                mend=f"choose a backend of {', '.join(OF_ONNX)} and one of {', '.join(PRECISIONS)}",
            )
        if self.cuda_graph and self.backend not in WITH_GRAPH:
            raise InputError(f"{self.backend} has no CUDA graph", mend="leave it out")

    def __str__(self) -> str:
        return " ".join([self.backend, self.precision] + ["CUDA graph"] * self.cuda_graph)

    @property
    def on_gpu(self) -> bool:
        return uses_gpu(self.backend)

    def form(self, artifact: Artifact, split: CocoSplit) -> Artifact:
        """The float32 ``artifact``, or its float16 form in ``fp16/`` beside it, made once; islands
        by an audit on ``split``.
        """
        if self.precision == artifact.manifest.precision:
            return artifact
        path = artifact.path.parent / self.precision / artifact.path.name
        if path.is_file() and manifest_path(path).is_file():
            return load_artifact(path)
        from rfdetr_repro.export.half import audited_half

        return audited_half(artifact, path, feeds=audit_feeds(artifact, split))

    def open(self, artifact: Artifact, threads: int, build: int = 0) -> Session:
        build = build if self.on_gpu else 0
        return open_session(
            artifact, self.backend, threads=threads, cuda_graph=self.cuda_graph, build=build
        )

    @contextmanager
    def watched(self, *, force: bool = False) -> Iterator[Watched | None]:
        """A watch on the GPU where the backend uses one; other programs on it are refused unless
        ``force``.
        """
        if not self.on_gpu:
            yield None
            return
        with watching(force=force) as watched:
            yield watched
