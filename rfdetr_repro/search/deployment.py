"""The deployment of the found models: the runtime, and the files that it runs.

Every latency of a search, modelled or measured, belongs to one :class:`Deployment`.
:class:`Deployed` is a supernet on a deployment; its :meth:`~Deployed.artifact` is the only way from
an architecture to the file that is measured.
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
from rfdetr_repro.export.artifact import Artifact, ArtifactMeta, existing_artifact
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import OF_ONNX, PRECISIONS, WITH_GRAPH

if TYPE_CHECKING:
    from rfdetr_repro.model.detector import Detector

ENGINES = ("tensorrt", "tensorrt-rtx")  # backends that run engines built from an ONNX file


@dataclass(frozen=True)
class Deployment:
    """A backend of ``runtime/backends.py`` for ONNX files, the precision, and whether a CUDA graph
    is replayed.

    Raises :class:`InputError` for a combination that does not exist.
    """

    backend: str = "onnxruntime"
    precision: str = "fp32"
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.backend not in OF_ONNX or self.precision not in PRECISIONS:
            message = f"a search for {self.backend} {self.precision} is not possible"
            raise InputError(
                message,
                hint=f"choose a backend of {', '.join(OF_ONNX)} and one of {', '.join(PRECISIONS)}",
            )
        if self.cuda_graph and self.backend not in WITH_GRAPH:
            raise InputError(
                f"the backend {self.backend} cannot replay a CUDA graph", hint="leave it out"
            )

    def __str__(self) -> str:
        return " ".join([self.backend, self.precision] + ["CUDA graph"] * self.cuda_graph)

    @property
    def on_gpu(self) -> bool:
        """Whether the backend uses a GPU."""
        return uses_gpu(self.backend)

    @property
    def builds_engines(self) -> bool:
        """Whether the backend builds an engine from an ONNX file and runs the engine."""
        return self.backend in ENGINES

    @contextmanager
    def watched(self, *, force: bool = False) -> Iterator[Watched | None]:
        """A watch on the GPU if the backend uses a GPU; raises :class:`InputError` for other
        processes on the GPU unless ``force`` is set.
        """
        if not self.on_gpu:
            yield None
            return
        with watching(force=force) as watched:
            yield watched


@dataclass(frozen=True)
class Deployed:
    """A supernet on a deployment; each file is made once, in ``folder``, and reused after that.

    ``meta``: function from an architecture to the facts that an exporter needs. ``split``: data
    whose first images are used by the range audit of a conversion to float16.
    """

    deployment: Deployment
    supernet: Detector
    meta: Callable[[Arch], ArtifactMeta]
    folder: Path
    split: CocoSplit

    def artifact(self, arch: Arch, build: int = 0) -> Artifact:
        """The file that the runtime opens: :meth:`onnx`, or engine number ``build`` built from it,
        on backends that build engines.
        """
        source = self.onnx(arch)
        if not self.deployment.builds_engines:
            return source
        from rfdetr_repro.export.tensorrt.engine import BuildOptions, build_engine

        options = BuildOptions(build=build)
        return build_engine(source, self.deployment.backend, source.path.parent, options)

    def open(self, arch: Arch, threads: int, build: int = 0) -> Session:
        """A session of :meth:`artifact`; ``threads`` as in
        :func:`rfdetr_repro.runtime.backends.open_session`.
        """
        asked = self.deployment
        return open_session(
            self.artifact(arch, build),
            asked.backend,
            threads=threads,
            cuda_graph=asked.cuda_graph,
        )

    def onnx(self, arch: Arch) -> Artifact:
        """The ONNX file in the deployment's precision, from which engines are built."""
        wide = self.export(arch)
        precision = self.deployment.precision
        if precision == wide.manifest.precision:
            return wide
        path = wide.path.parent / precision / wide.path.name
        if (found := existing_artifact(path)) is not None:
            return found
        from rfdetr_repro.export.half import audited_half

        return audited_half(wide, path, feeds=audit_feeds(wide, self.split))

    def export(self, arch: Arch) -> Artifact:
        """The float32 ONNX file, from which all other files are made."""
        meta = self.meta(arch)
        checkpoint = (meta.model.checkpoint_sha256 or "")[:8]
        path = self.folder / f"{arch.key}-{checkpoint}.onnx"
        return existing_artifact(path) or self._exported(arch, path, meta)

    def _exported(self, arch: Arch, path: Path, meta: ArtifactMeta) -> Artifact:
        from rfdetr_repro.export.onnx.exporter import export_onnx

        return export_onnx(self.supernet.slice(arch), path, meta=meta)
