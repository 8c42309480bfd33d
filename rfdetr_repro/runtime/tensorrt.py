"""Running an engine: buffers bound by address, one stream, a CUDA graph or plain launches,
everything on the GPU until asked for.

The graph is captured once, after one plain launch (which also lets TensorRT-RTX compile its
kernels), before anything is timed. A capture that fails raises: a row never says "graph" for plain
launches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.contract import check_images, check_input, check_outputs
from rfdetr_repro.export.tensorrt.cuda_device import Buffer, CapturedGraph, Device, open_device
from rfdetr_repro.export.tensorrt.engine import AHEAD_OF_TIME, Messages, load_backend, make_logger
from rfdetr_repro.records.record import ArtifactId
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import open_input, sha256_bytes
from rfdetr_repro.spec.resize_rules import option_of

from .session import Array, Detections, Session

DTYPES: dict[str, Any] = {  # a type that is not here is refused, never read as another
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
    """One input or output: its buffer, and the host side of it as an array."""

    buffer: Buffer
    array: Array


class TrtSession(Session):
    """An engine of ``backend`` ("tensorrt" or "tensorrt-rtx") on the current GPU; ``cuda_graph``:
    replay a captured graph.

    ``threads`` means nothing to a GPU and is taken so that sessions open alike. Raises
    :class:`InputError` for an engine of another GPU, version or file than its manifest says, and
    without a GPU; StatedFailure if a launch or the capture fails.
    """

    def __init__(
        self,
        artifact: Artifact,
        backend: str,
        *,
        cuda_graph: bool,
        threads: int = 2,
        device: Device | None = None,
    ) -> None:
        self.manifest = artifact.manifest
        trt = load_backend(backend)
        self.device = device or open_device()
        self._refuse_foreign(trt, artifact, backend)
        check_input(self.manifest.inputs, artifact)
        check_outputs(self.manifest.outputs, artifact)
        self._messages = Messages()
        self._logger = make_logger(trt, self._messages)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._load(artifact)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise StatedFailure(f"{backend} cannot run {artifact.path}: {self._messages.last()}")
        self._bound = {
            name: self._bind(trt, name, artifact)
            for name in map(self._engine.get_tensor_name, self._io())
        }
        self._input = self._bound[self.manifest.inputs[0].name].array
        self._graph: CapturedGraph | None = None
        self.device.run(self._launch_plain)
        if cuda_graph:
            self._graph = self._captured()
        told = self.manifest
        graph = "on" if cuda_graph else "off"
        options = {
            name: told.build.get(name, "unknown")
            for name in ("optimization_level", "tf32", "build", "version")
        }
        if injected := told.packages.get("injected_candidates"):  # as in session.identity_of
            options["injected_candidates"] = injected
        named = [
            f"cuda_graph={graph}",
            *(f"{name}={value}" for name, value in options.items()),
            option_of(told.resize),
        ]
        settings = " ".join(filter(None, named))
        onnx_sha256 = told.onnx_sha256 or "unknown"
        self.artifact_id = ArtifactId(
            artifact.sha256, onnx_sha256, backend, told.precision, told.size_bytes, settings
        )

    def _refuse_foreign(self, trt: Any, artifact: Artifact, backend: str) -> None:
        told = self.manifest
        hint = f"python -m rfdetr_repro.export.tensorrt MODEL.onnx --backend {backend}"
        if told.format != backend:
            raise InputError(
                f"this is {told.format}, not an engine of {backend}", artifact.path, hint
            )
        version = told.build.get("version")
        built_for = told.build.get("gpu")
        if version != trt.__version__:
            raise InputError(
                f"the engine was built by {backend} {version}, here is {trt.__version__}",
                artifact.path,
                hint,
            )
        too_old = built_for == AHEAD_OF_TIME and self.device.gpu.capability < (8, 0)
        if too_old or built_for not in (AHEAD_OF_TIME, str(self.device.gpu)):
            raise InputError(
                f"the engine was built for {built_for}, here is {self.device.gpu}",
                artifact.path,
                hint,
            )

    def _load(self, artifact: Artifact) -> Any:
        with open_input(artifact.path) as stream:
            content = stream.read()
        if sha256_bytes(content) != artifact.sha256:
            raise InputError("the file changed since it was loaded", artifact.path, "load it again")
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise InputError(
                f"the engine does not load: {self._messages.last()}",
                artifact.path,
                "build it again here",
            )
        return engine

    def _io(self) -> range:
        return range(self._engine.num_io_tensors)

    def _bind(self, trt: Any, name: str, artifact: Artifact) -> _Bound:
        kind = self._engine.get_tensor_dtype(name).name
        shape = tuple(self._engine.get_tensor_shape(name))
        if kind not in DTYPES:
            raise InputError(
                f"{name} is {kind}, which has no numpy type",
                artifact.path,
                "export it with float32 outputs",
            )
        if min(shape, default=1) < 1:
            raise InputError(
                f"{name} has the shape {shape}, which is not fixed",
                artifact.path,
                "export it with fixed sizes",
            )
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise InputError(
                f"{name} is a tensor of the host",
                artifact.path,
                "export a detector with images as its only input",
            )
        dtype = np.dtype(DTYPES[kind])
        told = {
            spec.name: (spec.shape, spec.dtype)
            for spec in (*self.manifest.inputs, *self.manifest.outputs)
        }
        if told.get(name) != (shape, dtype.name):
            what = f"{name} is {dtype.name} {shape}, its manifest says {told.get(name, 'nothing')}"
            raise InputError(what, artifact.path, "build the engine again")
        buffer = self.device.buffer(int(np.prod(shape)) * dtype.itemsize)
        if not self._context.set_tensor_address(name, buffer.address):
            raise StatedFailure(f"{name} cannot be bound: {self._messages.last()}")
        return _Bound(buffer, buffer.host.view(dtype).reshape(shape))

    def _captured(self) -> CapturedGraph:
        # TensorRT-RTX knows beforehand
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
            raise StatedFailure(f"the engine does not run: {self._messages.last()}")

    def bind(self, images: Array) -> None:
        """images float32 (1, 3, H, W) RGB in 0..1, copied to the device.

        Other shapes and types: :class:`InputError`.
        """
        np.copyto(self._input, check_images(images, self.manifest))
        self._bound[self.manifest.inputs[0].name].buffer.upload()
        self.device.synchronize()

    def enqueue(self) -> None:
        """Puts one run on the stream and returns at once."""
        if self._graph is None:
            self._launch_plain()
        else:
            self._graph.launch()

    def launch(self) -> None:
        """One run, finished when it returns; the outputs stay on the device."""
        self.device.run(self.enqueue)

    @property
    def gpu_ms(self) -> float | None:
        return self.device.elapsed_ms

    @property
    def cuda_graph(self) -> bool:
        return self._graph is not None

    def outputs(self) -> Detections:
        """Copies what the last launch left to new arrays in host memory."""
        found = [self._bound[name] for name in _OUTPUTS if name in self._bound]
        for bound in found:
            bound.buffer.download()
        self.device.synchronize()
        return Detections.of([bound.array.copy() for bound in found])
