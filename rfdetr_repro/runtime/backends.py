"""Opens an artifact on a backend by name; the packages of a backend are imported on demand.

ONNX files run on ``onnxruntime`` (CPU), ``onnxruntime-cuda``, ``openvino`` (CPU), ``tensorrt`` and
``tensorrt-rtx``. Files of the format torch run on ``torch`` (eager, on the GPU if there is one) and
``torch-graph`` (CUDA graph). ``Session.artifact_id.runtime`` names the runtime that ran the model.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import Any

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.plugin import check_runtime
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import BACKENDS, IN_TORCH, OF_ENGINES, WITH_GRAPH
from rfdetr_repro.spec.ranges import choose

from .bfloat16 import BFLOAT16, RUNTIMES
from .session import OrtSession, Session

log = logging.getLogger(__name__)


def check_backend(backend: str, device_api: str | None = None) -> None:
    """Raises :class:`InputError` unless the package and the device of ``backend`` are available.
    ``device_api`` as in :func:`open_session`.

    Commands call this function before they start any work.
    """
    choose(backend, BACKENDS, "backend")
    if backend == "onnxruntime-cuda":
        _class("runtime.ort_cuda", "check_provider")()
    elif backend == "openvino":
        _class("runtime.openvino", "OpenVinoSession")
    elif backend == "torch-graph":
        _class("runtime.torch", "graph_device")()
    elif backend in OF_ENGINES:
        _class("runtime.tensorrt", "TrtSession")
        _class("export.tensorrt.cuda_device", "open_device")(_chosen(backend, device_api))
        _class("export.tensorrt.engine", "load_backend")(backend)


def open_session(
    artifact: Artifact,
    backend: str = "onnxruntime",
    *,
    threads: int = 2,
    cuda_graph: bool = False,
    build: int = 0,
    device_api: str | None = None,
) -> Session:
    """A session that runs ``artifact`` on ``backend``, which is one of BACKENDS.

    ``threads``: number of threads of a CPU runtime, or of the host side of a GPU runtime, 1 to
    1024. ``cuda_graph``: capture a CUDA graph before returning (``torch-graph`` always does).
    ``build``: 0, 1, ...: number of the TensorRT engine, for several builds of one file; other
    backends build nothing and open the same file again. ``device_api``: the library that gives an
    engine its device, "torch" or "pycuda", with a device number after a colon where needed; None:
    PyTorch where it sees a GPU, else pycuda.

    An engine's outputs are compared with those of its ONNX file when it is first opened
    (``runtime/engine_check.py``); ``artifact_id.options`` says "agreement=" and what they were
    compared with, or "unknown". Raises :class:`InputError` for an unknown backend, a missing
    package or device, and a file in another format; :class:`StatedFailure` for an engine that
    disagrees.
    """
    choose(backend, BACKENDS, "backend")
    if not 1 <= threads <= 1024 or build < 0:
        raise InputError(
            f"{threads} threads and build {build} are not possible",
            backend,
            "give 1 to 1024 threads; builds are numbered from 0",
        )
    if cuda_graph and backend not in WITH_GRAPH:
        raise InputError(
            f"the backend {backend} cannot replay a CUDA graph",
            hint=f"choose one of {', '.join(WITH_GRAPH)}, or leave the CUDA graph out",
        )
    _check_precision(artifact, backend)
    check_runtime(artifact, backend)
    chosen = _chosen(backend, device_api)
    log.debug(
        f"{artifact.path} opens on {backend}: {threads} threads"
        + (", a captured CUDA graph" if cuda_graph else "")
    )
    if backend == "onnxruntime":
        return OrtSession(artifact, threads)
    if backend == "onnxruntime-cuda":
        return _class("runtime.ort_cuda", "OrtCudaSession")(
            artifact, threads, cuda_graph=cuda_graph
        )
    if backend == "openvino":
        return _class("runtime.openvino", "OpenVinoSession")(artifact, threads)
    if backend in IN_TORCH:
        return _class("runtime.torch", "TorchSession")(
            artifact, threads, graph=backend == "torch-graph"
        )
    return _engine_session(
        artifact, backend, threads=threads, cuda_graph=cuda_graph, build=build, chosen=chosen
    )


def _engine_session(
    artifact: Artifact, backend: str, *, threads: int, cuda_graph: bool, build: int, chosen: Any
) -> Session:
    """The only way to an engine that is measured or evaluated, so that none is unchecked."""
    session = _class("runtime.tensorrt", "TrtSession")
    source = None
    if artifact.manifest.format == "onnx":  # the engine is built first, next to the ONNX file
        from rfdetr_repro.export.tensorrt.engine import BuildOptions, build_engine

        source = artifact
        artifact = build_engine(
            source, backend, source.path.parent, BuildOptions(build=build), chosen=chosen
        )
    opened: Any = session(artifact, backend, cuda_graph=cuda_graph, threads=threads, chosen=chosen)
    try:
        gpu = str(opened.device.gpu)
        found = _class("runtime.engine_check", "check_engine")(
            opened, artifact, source, gpu=gpu, threads=threads
        )
    except BaseException:
        opened.close()
        raise
    identity = opened.artifact_id
    opened.artifact_id = replace(identity, options=f"{identity.options} agreement={found}")
    return opened


def _chosen(backend: str, device_api: str | None) -> Any:
    """The device that ``device_api`` names; raises :class:`InputError` for a backend that has
    another way to its device.
    """
    if backend not in OF_ENGINES:
        if device_api is not None:
            raise InputError(
                f"the backend {backend} opens its device itself, not by {device_api}",
                hint=f"leave the device API out, or choose {' or '.join(OF_ENGINES)}",
            )
        return None
    if device_api is None:
        return _class("export.tensorrt.cuda_device", "ANY")
    return _class("export.tensorrt.cuda_device", "Chosen").parse(device_api)


def _check_precision(artifact: Artifact, backend: str) -> None:
    """Raises :class:`InputError` for a backend that would compute an INT8 file, or a file that is
    to be run in bfloat16, in another precision.
    """
    precision = artifact.manifest.precision
    of_torch = artifact.manifest.format == "torch"
    runtimes = IN_TORCH if of_torch and precision != "int8" else RUNTIMES
    if precision in ("int8", BFLOAT16) and backend not in runtimes:
        raise InputError(
            f"the backend {backend} does not compute this file in {precision}",
            artifact.path,
            f"choose {' or '.join(runtimes)}, or another precision",
        )


def _class(module: str, name: str) -> Any:
    """The attribute ``name`` of a module of this package.

    Raises :class:`InputError` if the module cannot import a package that it needs.
    """
    try:
        return getattr(importlib.import_module(f"rfdetr_repro.{module}"), name)
    except InputError:
        raise
    except ImportError as error:
        hint = "install the missing package, or choose another backend"
        raise InputError(f"the backend cannot be loaded: {error}", hint=hint) from error
