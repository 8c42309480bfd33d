"""The deployment of the found models: the runtime, and the files that it runs.

Every latency of a search, modelled or measured, belongs to one :class:`Deployment`.
:class:`Deployed` is a supernet on a deployment; its :meth:`~Deployed.artifact` is the only way from
an architecture to the file that is measured.
"""

from __future__ import annotations

import logging
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
    existing_artifact,
    write_artifact,
)
from rfdetr_repro.export.contract import content_of
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import IN_TORCH, OF_ENGINES, check_deployment

if TYPE_CHECKING:
    from rfdetr_repro.model.detector import Detector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """A backend of ``runtime/backends.py``, the precision in which it computes the models, and
    whether a CUDA graph is replayed; ``torch-graph`` replays one in any case.

    The precision is "fp32" or "fp16", and with PyTorch also "bf16". Raises :class:`InputError` for
    a combination that does not exist.
    """

    backend: str = "onnxruntime"
    precision: str = "fp32"
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        check_deployment(self.backend, self.precision, self.cuda_graph)

    def __str__(self) -> str:
        return " ".join([self.backend, self.precision] + ["CUDA graph"] * self.replays)

    @property
    def replays(self) -> bool:
        """Whether a CUDA graph is replayed."""
        return self.cuda_graph or self.backend == "torch-graph"

    @property
    def on_gpu(self) -> bool:
        """Whether the backend uses a GPU."""
        return uses_gpu(self.backend)

    @property
    def in_torch(self) -> bool:
        """Whether PyTorch runs the models."""
        return self.backend in IN_TORCH

    @property
    def builds_engines(self) -> bool:
        """Whether the backend builds an engine from an ONNX file and runs the engine."""
        return self.backend in OF_ENGINES

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
        """The file that the runtime opens: :meth:`file`, or engine number ``build`` built from it,
        on backends that build engines.
        """
        source = self.file(arch)
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

    def open_exact(self, arch: Arch, threads: int) -> Session:
        """A session of :meth:`export` in float32, whose detections have to be those of the subnet:
        ONNX Runtime on the CPU, or PyTorch.
        """
        backend = "torch" if self.deployment.in_torch else "onnxruntime"
        return open_session(self.export(arch), backend, threads=threads)

    def file(self, arch: Arch) -> Artifact:
        """The exported file in the deployment's precision: an ONNX file, from which engines are
        built, or a file for PyTorch, which holds float32 weights and states the precision in which
        they are computed.
        """
        wide = self.export(arch)
        precision = self.deployment.precision
        if precision == wide.manifest.precision:
            return wide
        path = wide.path.parent / precision / wide.path.name
        if (found := _existing(path, self.meta(arch), arch, precision)) is not None:
            return found
        if self.deployment.in_torch:
            from rfdetr_repro.runtime.bfloat16 import computed_in

            computed = computed_in(wide, precision)
            return write_artifact(path, content_of(wide, "torch"), computed.manifest)
        from rfdetr_repro.export.half import audited_half

        return audited_half(wide, path, feeds=audit_feeds(wide, self.split))

    def export(self, arch: Arch) -> Artifact:
        """The float32 file, from which all other files are made.

        A file of the same model that is there already is taken if its SHA-256 is the one that its
        manifest states; a file that has another is exported again, which is said.
        """
        meta = self.meta(arch)
        checkpoint = (meta.model.checkpoint_sha256 or "")[:8]
        suffix = "safetensors" if self.deployment.in_torch else "onnx"
        path = self.folder / f"{arch.key}-{checkpoint}.{suffix}"
        return _existing(path, meta, arch, "fp32") or self._exported(arch, path, meta)

    def _exported(self, arch: Arch, path: Path, meta: ArtifactMeta) -> Artifact:
        from rfdetr_repro.export.onnx.exporter import export_onnx
        from rfdetr_repro.export.torch import export_torch

        export = export_torch if self.deployment.in_torch else export_onnx
        return export(self.supernet.slice(arch), path, meta=meta)


def _existing(path: Path, meta: ArtifactMeta, arch: Arch, precision: str) -> Artifact | None:
    """The file at ``path`` if it is that of ``arch`` in ``precision`` which ``meta`` describes;
    None for any other file, and for a damaged one, which is said.
    """
    try:
        found = existing_artifact(path)
    except InputError as error:
        log.warning(f"exported again: {error}")
        return None
    if found is None:
        return None
    manifest = found.manifest
    stated = manifest.model
    asked = meta.model
    same = (
        (stated.variant, stated.checkpoint_sha256, stated.arch)
        == (asked.variant, asked.checkpoint_sha256, arch)
        and (manifest.class_names, manifest.category_ids) == (meta.class_names, meta.category_ids)
        and (manifest.resize, manifest.precision) == (meta.resize, precision)
    )
    return found if same else None
