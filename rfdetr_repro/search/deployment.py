"""What the found models will run on, and the files that run there.

Every latency of a search, modelled or measured, belongs to one :class:`Deployment`. Of one supernet
a deployment is :class:`Deployed`: its :meth:`~Deployed.artifact` is the only way from an
architecture to the file that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.bench.accuracy import audit_feeds
from rfdetr_repro.bench.gpu.device import Watched, uses_gpu, watching
from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.export.artifact import (
    Artifact,
    ArtifactMeta,
    load_artifact,
    manifest_path,
)
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import OF_ONNX, WITH_GRAPH

if TYPE_CHECKING:
    from rfdetr_repro.model.detector import Detector

PRECISIONS = ("fp32", "fp16")
ENGINES = ("tensorrt", "tensorrt-rtx")  # backends that run engines made of an ONNX file


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
                hint=f"choose a backend of {', '.join(OF_ONNX)} and one of {', '.join(PRECISIONS)}",
            )
        if self.cuda_graph and self.backend not in WITH_GRAPH:
            raise InputError(f"{self.backend} has no CUDA graph", hint="leave it out")

    def __str__(self) -> str:
        return " ".join([self.backend, self.precision] + ["CUDA graph"] * self.cuda_graph)

    @property
    def on_gpu(self) -> bool:
        return uses_gpu(self.backend)

    @property
    def builds_engines(self) -> bool:
        """Whether the backend builds an engine of an ONNX file, which then is what runs."""
        return self.backend in ENGINES

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


@dataclass(frozen=True)
class Deployed:
    """A deployment of one supernet: each file is made once, in ``folder``, and found after that.

    ``meta``: what an exporter needs to know of an architecture. ``split``: on whose first pictures
    a conversion to float16 looks for values out of range.
    """

    deployment: Deployment
    supernet: Detector
    meta: Callable[[Arch], ArtifactMeta]
    folder: Path
    split: CocoSplit

    def artifact(self, arch: Arch, build: int = 0) -> Artifact:
        """The file that the runtime opens: :meth:`onnx`, or engine number ``build`` made of it
        where the backend builds engines.
        """
        source = self.onnx(arch)
        if not self.deployment.builds_engines:
            return source
        from rfdetr_repro.export.tensorrt.engine import BuildOptions, build_engine

        options = BuildOptions(build=build)
        return build_engine(source, self.deployment.backend, source.path.parent, options)

    def open(self, arch: Arch, threads: int, build: int = 0) -> Session:
        """A session of :meth:`artifact`; ``threads`` as :func:`~..runtime.backends.open_session`
        takes them.
        """
        asked = self.deployment
        return open_session(
            self.artifact(arch, build),
            asked.backend,
            threads=threads,
            cuda_graph=asked.cuda_graph,
        )

    def onnx(self, arch: Arch) -> Artifact:
        """The ONNX file in the deployment's precision, which engines are built from."""
        wide = self.export(arch)
        precision = self.deployment.precision
        if precision == wide.manifest.precision:
            return wide
        path = wide.path.parent / precision / wide.path.name
        if path.is_file() and manifest_path(path).is_file():
            return load_artifact(path)
        from rfdetr_repro.export.half import audited_half

        return audited_half(wide, path, feeds=audit_feeds(wide, self.split))

    def export(self, arch: Arch) -> Artifact:
        """The float32 ONNX file, which all others are made from."""
        meta = self.meta(arch)
        checkpoint = (meta.model.checkpoint_sha256 or "")[:8]
        path = self.folder / f"{arch.key}-{checkpoint}.onnx"
        if path.is_file() and manifest_path(path).is_file():
            return load_artifact(path)
        return self._exported(arch, path, meta)

    def _exported(self, arch: Arch, path: Path, meta: ArtifactMeta) -> Artifact:
        from rfdetr_repro.export.onnx.exporter import export_onnx

        return export_onnx(self.supernet.slice(arch), path, meta=meta)
