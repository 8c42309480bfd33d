"""Runs a TensorRT engine: buffers bound by address, one stream, a CUDA graph or plain launches;
outputs stay on the GPU until they are asked for.

The graph is captured once, before any timing, after one plain launch, in which TensorRT-RTX also
compiles its kernels. A failed capture raises an error, so a row that is marked "graph" never ran
with plain launches. Kernels that TensorRT-RTX has compiled are kept beside the engine, in
``ENGINE.kernels``, so that the next session does not compile them again; the library itself checks
that they are of this GPU, driver and version.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.contract import UNKNOWN, check_images, check_input, check_outputs
from rfdetr_repro.export.plugin import PLUGIN, load_plugin, needs_plugin, plugin_sha256
from rfdetr_repro.export.tensorrt.cuda_device import (
    ANY,
    Buffer,
    CapturedGraph,
    Chosen,
    Device,
    open_device,
)
from rfdetr_repro.export.tensorrt.engine import (
    AHEAD_OF_TIME,
    ONE_CAPABILITY,
    Messages,
    load_backend,
    make_logger,
)
from rfdetr_repro.records.record import ArtifactId
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import open_input, sha256_bytes, write_atomic
from rfdetr_repro.spec.resize_rules import option_of

from .session import Array, Detections, Session

log = logging.getLogger(__name__)

DTYPES: dict[str, Any] = {  # other types are refused
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
_OUTPUTS = ("scores", "labels", "boxes", "masks")


class _Bound(NamedTuple):
    """One input or output: its device buffer, and the host copy as an array."""

    buffer: Buffer
    array: Array


class TrtSession(Session):
    """An engine of ``backend`` ("tensorrt" or "tensorrt-rtx") on the current GPU.

    Raises :class:`InputError` without a GPU, and for an engine whose GPU, version or content is not
    what its manifest states; :class:`StatedFailure` if a launch or the capture fails.
    """

    def __init__(
        self,
        artifact: Artifact,
        backend: str,
        *,
        cuda_graph: bool,
        threads: int = 2,
        device: Device | None = None,
        chosen: Chosen = ANY,
    ) -> None:
        """Loads the engine, binds its buffers and runs it once.

        ``cuda_graph``: capture a CUDA graph and replay it in ``launch``. ``threads`` is accepted,
        like in every session, and ignored. ``device``: the GPU, else the one that is ``chosen``.
        """
        self.manifest = artifact.manifest
        trt = load_backend(backend)
        self.device = device or open_device(chosen)
        self._refuse_foreign(trt, artifact, backend)
        opened = self.manifest.open_batch  # the shapes of the engine itself are read below
        inputs = [
            replace(spec, shape=(UNKNOWN, *spec.shape[1:])) if opened else spec
            for spec in self.manifest.inputs
        ]
        check_input(inputs, artifact)
        check_outputs(self.manifest.outputs, artifact)
        self._messages = Messages()
        self._logger = make_logger(trt, self._messages)
        if needs_plugin(self.manifest):
            self._load_plugin(trt, artifact)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._load(artifact)
        kept = artifact.path.with_name(f"{artifact.path.name}.kernels")
        kernels = _Kernels(self._engine, kept) if backend == "tensorrt-rtx" else None
        arguments = () if kernels is None else (kernels.config,)
        self._context = self._engine.create_execution_context(*arguments)
        if self._context is None:
            raise StatedFailure(f"{backend} cannot run {artifact.path}: {self._messages.last()}")
        self._trt = trt
        self._path = artifact.path
        self._with_graph = cuda_graph
        self._bound: dict[str, _Bound] = {}
        self._graph: CapturedGraph | None = None
        self._bind_all(self.manifest.images_per_run)
        if kernels is not None:
            kernels.keep()
        manifest = self.manifest
        graph = "on" if cuda_graph else "off"
        names = ["optimization_level", "tf32", "build", "version"]
        names += ["batches"] * manifest.open_batch
        options = {name: manifest.build.get(name, "unknown") for name in names}
        if injected := manifest.packages.get("injected_candidates"):  # as in session.identity_of
            options["injected_candidates"] = injected
        named = [
            f"cuda_graph={graph}",
            *(f"{name}={value}" for name, value in options.items()),
            "" if self.device.api == "torch" else f"device_api={self.device.api}",
            option_of(manifest.resize),
        ]
        settings = " ".join(filter(None, named))
        onnx_sha256 = manifest.onnx_sha256 or "unknown"
        self.artifact_id = ArtifactId(
            artifact.sha256, onnx_sha256, backend, manifest.precision, manifest.size_bytes, settings
        )

    def _refuse_foreign(self, trt: Any, artifact: Artifact, backend: str) -> None:
        manifest = self.manifest
        hint = f"python -m rfdetr_repro.export.tensorrt MODEL.onnx --backend {backend}"
        if manifest.format != backend:
            raise InputError(
                f"the file's format is {manifest.format}, not an engine of {backend}",
                artifact.path,
                hint,
            )
        version = manifest.build.get("version")
        built_for = manifest.build.get("gpu")
        if version != trt.__version__:
            raise InputError(
                f"the engine was built by {backend} {version}, and {trt.__version__} is installed",
                artifact.path,
                hint,
            )
        gpu = self.device.gpu
        major, minor = gpu.capability
        runs = [str(gpu), f"{ONE_CAPABILITY}{major}.{minor}"]
        if gpu.capability >= (8, 0):
            runs.append(AHEAD_OF_TIME)
        if built_for not in runs:
            raise InputError(
                f"the engine was built for {built_for}, and this GPU is {gpu}",
                artifact.path,
                hint,
            )

    def _load_plugin(self, trt: Any, artifact: Artifact) -> None:
        if self.manifest.build.get(PLUGIN) != plugin_sha256():
            raise InputError(
                "the engine was built with another build of the TensorRT plugin",
                artifact.path,
                "build the engine again",
            )
        load_plugin(trt)

    def _load(self, artifact: Artifact) -> Any:
        with open_input(artifact.path) as stream:
            content = stream.read()
        if sha256_bytes(content) != artifact.sha256:
            raise InputError(
                "the file changed since it was loaded", artifact.path, "load the file again"
            )
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise InputError(
                f"the engine cannot be loaded: {self._messages.last()}",
                artifact.path,
                "build the engine again on this machine",
            )
        return engine

    def _io(self) -> range:
        return range(self._engine.num_io_tensors)

    def _bind_all(self, batch: int) -> None:
        """Binds buffers for ``batch`` images, runs the engine once, and captures the CUDA graph
        where one is replayed.
        """
        self._graph = None
        if self.manifest.open_batch:
            spec = self.manifest.inputs[0]
            self._check_profile(batch)
            if not self._context.set_input_shape(spec.name, (batch, *spec.shape[1:])):
                raise StatedFailure(
                    f"the engine does not take {batch} images: {self._messages.last()}"
                )
        names = [self._engine.get_tensor_name(index) for index in self._io()]
        self._bound = {name: self._bind(name, batch) for name in names}
        self._input = self._bound[self.manifest.inputs[0].name].array
        self.device.run(self._launch_plain)
        if self._with_graph:
            self._graph = self._captured()

    def _check_profile(self, batch: int) -> None:
        stated = self.manifest.build.get("batches", "").split(",")
        if not all(part.isdecimal() for part in stated) or len(stated) != 3:
            raise InputError(
                "the manifest does not state the batches of the engine",
                self._path,
                "build the engine again",
            )
        least, _, most = map(int, stated)
        if not least <= batch <= most:
            raise InputError(
                f"the engine takes {least} to {most} images at once, not {batch}",
                self._path,
                "build the engine with --batches LEAST,USUAL,LARGEST",
            )

    def _bind(self, name: str, batch: int) -> _Bound:
        trt = self._trt
        path = self._path
        kind = self._engine.get_tensor_dtype(name).name
        shape = tuple(self._engine.get_tensor_shape(name))
        opened = self.manifest.open_batch
        if opened and shape[:1] == (-1,):
            shape = (batch, *shape[1:])
        if kind not in DTYPES:
            raise InputError(
                f"{name} is {kind}, which has no numpy type",
                path,
                "export the model with float32 outputs",
            )
        if min(shape, default=1) < 1:
            raise InputError(
                f"{name} has the shape {shape}, which is not fixed",
                path,
                "export the model with fixed shapes",
            )
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise InputError(
                f"{name} is a tensor in host memory",
                path,
                "export a detector with images as its only input",
            )
        dtype = np.dtype(DTYPES[kind])
        stated = {
            spec.name: ((batch, *spec.shape[1:]) if opened else spec.shape, spec.dtype)
            for spec in (*self.manifest.inputs, *self.manifest.outputs)
        }
        if stated.get(name) != (shape, dtype.name):
            what = (
                f"{name} is {dtype.name} {shape}, its manifest says {stated.get(name, 'nothing')}"
            )
            raise InputError(what, path, "build the engine again")
        buffer = self.device.buffer(int(np.prod(shape)) * dtype.itemsize)
        if not self._context.set_tensor_address(name, buffer.address):
            raise StatedFailure(f"{name} cannot be bound: {self._messages.last()}")
        return _Bound(buffer, buffer.host.view(dtype).reshape(shape))

    def _captured(self) -> CapturedGraph:
        # TensorRT-RTX tells beforehand whether the stream can be captured
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self.device.stream):
            raise StatedFailure(
                "this engine cannot be captured as a CUDA graph; measure without one"
            )
        graph = CapturedGraph(self.device.stream, self._launch_plain)
        graph.launch()
        self.device.synchronize()
        return graph

    def _launch_plain(self) -> None:
        if not self._context.execute_async_v3(self.device.stream):
            raise StatedFailure(f"the engine cannot be run: {self._messages.last()}")

    def bind(self, images: Array) -> None:
        """Copies ``images``, float32 (B, 3, H, W), RGB in 0..1, to the device; another number of
        images than before gets new buffers, and a new CUDA graph where one is replayed.

        Raises :class:`InputError` for other shapes and types.
        """
        given = check_images(images, self.manifest)
        if given.shape != self._input.shape:
            self._bind_all(len(given))
        np.copyto(self._input, given)
        self._bound[self.manifest.inputs[0].name].buffer.upload()
        self.device.synchronize()

    def close(self) -> None:
        """Frees graph, execution context, engine and buffers, in this order, and closes the device;
        the session cannot be used after that.
        """
        if (device := self.__dict__.pop("device", None)) is None:
            return
        if (graph := self.__dict__.pop("_graph", None)) is not None:
            graph.close()
        for name in ("_context", "_engine", "_runtime", "_input", "_bound"):
            self.__dict__.pop(name, None)
        device.close()

    def __del__(self) -> None:
        with suppress(Exception):  # a device that has failed; nothing can be told here
            self.close()

    def enqueue(self) -> None:
        """Puts one run on the stream and returns at once."""
        if self._graph is None:
            self._launch_plain()
        else:
            self._graph.launch()

    def launch(self) -> None:
        """Runs the engine and waits for the end; the outputs stay on the device."""
        self.device.run(self.enqueue)

    @property
    def gpu_ms(self) -> float | None:
        """Duration of the last ``launch`` in ms between two CUDA events."""
        return self.device.elapsed_ms

    @property
    def cuda_graph(self) -> bool:
        """Whether ``launch`` replays a captured CUDA graph."""
        return self._graph is not None

    @property
    def device_index(self) -> int:
        """The number of the engine's GPU among those that CUDA shows."""
        return self.device.index

    def outputs(self) -> Detections:
        """Copies the outputs of the last ``launch`` to new arrays in host memory."""
        found = [self._bound[name] for name in _OUTPUTS if name in self._bound]
        for bound in found:
            bound.buffer.download()
        self.device.synchronize()
        return Detections.of([bound.array.copy() for bound in found])


class _Kernels:
    """The kernels that TensorRT-RTX compiles for an engine, kept in a file between sessions."""

    def __init__(self, engine: Any, path: Path) -> None:
        """``path``: the file, whose content is left out where it is of another GPU or version."""
        self._path = path
        self._content = path.read_bytes() if path.is_file() else b""
        self.config = engine.create_runtime_config()
        self._cache = self.config.create_runtime_cache()
        fits = bool(self._content) and self._cache.deserialize(self._content)
        if not fits:
            self._content = b""
        log.debug(f"{path}: {'kernels of an earlier session' if fits else 'no kernels that fit'}")
        if not self.config.set_runtime_cache(self._cache):
            raise StatedFailure("TensorRT-RTX does not take a cache for its kernels")

    def keep(self) -> None:
        """Writes the file if there are other kernels than in the file; a folder that cannot be
        written to is told and ends nothing.
        """
        content = bytes(self._cache.serialize())
        if content == self._content:
            return
        try:
            write_atomic(self._path, content)
        except (InputError, OSError) as error:
            log.info(f"the kernels that TensorRT-RTX compiled are not kept: {error}")
