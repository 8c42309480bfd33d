"""Opens an artifact on a backend by name. What a backend needs is imported when it is asked for.

ONNX files run on ``onnxruntime`` (CPU), ``onnxruntime-cuda``, ``openvino`` (CPU), ``tensorrt`` and
``tensorrt-rtx``; files of format torch on ``torch`` (eager, on the GPU if there is one) and
``torch-graph``. ``Session.artifact_id.runtime`` says what ran.
"""

from __future__ import annotations

import importlib
from typing import Any

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import BACKENDS, WITH_GRAPH
from rfdetr_repro.spec.ranges import choose

from .session import OrtSession, Session


def check_backend(backend: str) -> None:
    """Finds out, before any work, whether ``backend`` can run here: its package and its device.

    If not: :class:`InputError`.
    """
    choose(backend, BACKENDS, "backend")
    if backend == "onnxruntime-cuda":
        _class("runtime.ort_cuda", "check_provider")()
    elif backend == "openvino":
        _class("runtime.openvino", "OpenVinoSession")
    elif backend == "torch-graph":
        _class("runtime.torch", "graph_device")()
    elif backend in ("tensorrt", "tensorrt-rtx"):
        _class("runtime.tensorrt", "TrtSession")
        _class("export.tensorrt.cuda_device", "open_device")()
        _class("export.tensorrt.engine", "load_backend")(backend)


def open_session(
    artifact: Artifact,
    backend: str = "onnxruntime",
    *,
    threads: int = 2,
    cuda_graph: bool = False,
    build: int = 0,
) -> Session:
    """A session of ``artifact`` on one of BACKENDS.

    ``threads``: of a CPU runtime, of the host side of a GPU one. ``cuda_graph``: captured before
    this returns (``torch-graph`` always does). ``build``: 0, 1, ...: which of several engines that
    TensorRT builds of one file; other backends build nothing and open the same again. Unknown
    names, a package or device that is not there, a file of another format, and anything else a user
    can hint: :class:`InputError`.
    """
    choose(backend, BACKENDS, "backend")
    if not 1 <= threads <= 1024 or build < 0:
        raise InputError(
            f"{threads} threads, build {build}", backend, "1 to 1024 threads; builds count from 0"
        )
    if cuda_graph and backend not in WITH_GRAPH:
        raise InputError(
            f"{backend} has no CUDA graph",
            hint=f"choose one of {', '.join(WITH_GRAPH)}, or leave it out",
        )
    if backend == "onnxruntime":
        return OrtSession(artifact, threads)
    if backend == "onnxruntime-cuda":
        return _class("runtime.ort_cuda", "OrtCudaSession")(
            artifact, threads, cuda_graph=cuda_graph
        )
    if backend == "openvino":
        return _class("runtime.openvino", "OpenVinoSession")(artifact, threads)
    if backend in ("torch", "torch-graph"):
        return _class("runtime.torch", "TorchSession")(
            artifact, threads, graph=backend == "torch-graph"
        )
    session = _class("runtime.tensorrt", "TrtSession")
    if artifact.manifest.format == "onnx":  # built into an engine beside it first
        from rfdetr_repro.export.tensorrt.engine import BuildOptions, build_engine

        artifact = build_engine(artifact, backend, artifact.path.parent, BuildOptions(build=build))
    return session(artifact, backend, cuda_graph=cuda_graph, threads=threads)


def _class(module: str, name: str) -> Any:
    """``name`` of a module of this package; what the module cannot import is an
    :class:`InputError`.
    """
    try:
        return getattr(importlib.import_module(f"rfdetr_repro.{module}"), name)
    except InputError:
        raise
    except ImportError as error:
        hint = "install what it needs, or choose another backend"
        raise InputError(f"the backend cannot be loaded: {error}", hint=hint) from error
