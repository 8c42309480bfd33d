"""A double of TensorRT and of a CUDA device: engines are ONNX files behind a prefix, run by ONNX
Runtime at real addresses.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.export.tensorrt import engine as engine_module
from rfdetr_repro.export.tensorrt.cuda_device import Gpu
from rfdetr_repro.export.tensorrt.engine import build_engine
from rfdetr_repro.runtime import tensorrt as session_module
from rfdetr_repro.runtime.tensorrt import TrtSession
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.files import sha256_bytes

PREFIX = b"ENGINE"
T4 = Gpu("Tesla T4", (7, 5))
A10 = Gpu("NVIDIA A10", (8, 6))


class DataType(Enum):
    FLOAT, HALF, INT64, BF16 = range(4)


KINDS = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int64)": DataType.INT64,
}
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def at(address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The memory itself."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.addresses = engine, dict[str, int]()
        self.batch = 1  # of an engine for any number of images
        self.is_stream_capturable = lambda stream: engine.trt.capturable

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.trt.profiles[-1][1]
        self.batch = shape[0]
        self.addresses.clear()
        return bool(least[0] <= shape[0] <= most[0] and shape[1:] == least[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt = self.engine.trt
        trt.log.append("launch")
        return trt.device.do(self._run) if trt.runs else False

    def _run(self) -> None:
        session = self.engine.session
        (source,) = session.get_inputs()
        found = session.run(
            None,
            {source.name: at(self.addresses[source.name], NUMPY[source.type], self._shape(source))},
        )
        for value, array in zip(session.get_outputs(), found, strict=True):
            array = self.engine.trt.altered(value.name, array)
            at(self.addresses[value.name], array.dtype, array.shape)[...] = array

    def _shape(self, value: Any) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else self.batch for side in value.shape)


class FakeEngine:
    def __init__(self, trt: FakeTrt, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.trt, self.session = (
            trt,
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]),
        )
        self.io = {
            value.name: value for value in (*self.session.get_inputs(), *self.session.get_outputs())
        }
        self.num_io_tensors = len(self.io)

    def get_tensor_name(self, index: int) -> str:
        return list(self.io)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.trt.types.get(name, KINDS[self.io[name].type])

    def get_tensor_shape(self, name: str) -> list[int]:
        shape = [side if isinstance(side, int) else -1 for side in self.io[name].shape]
        return self.trt.shapes.get(name, shape)

    def get_tensor_location(self, name: str) -> str:
        return "device"

    def create_execution_context(self, config: Any = None) -> FakeContext:
        self.trt.log.append("context" if config is None else "configured context")
        return FakeContext(self)

    def create_runtime_config(self) -> Any:
        """As TensorRT-RTX 1.7 documents it: a cache takes only what it wrote itself."""
        trt = self.trt
        held = SimpleNamespace(content=b"")

        def deserialize(blob: bytes) -> bool:
            fits = blob.startswith(b"KERNELS")
            held.content = blob if fits else b""
            trt.log.append(("kernels", fits))
            return fits

        cache = SimpleNamespace(
            deserialize=deserialize, serialize=lambda: held.content or b"KERNELS compiled"
        )
        return SimpleNamespace(
            create_runtime_cache=lambda: cache, set_runtime_cache=lambda given: given is cache
        )

    def create_engine_inspector(self) -> Any:
        layers = [{"Outputs": [{"Format/Datatype": kind}]} for kind in self.trt.layers]
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))


class FakeTrt:
    """Stands in for the module ``tensorrt``; attributes choose its faults."""

    class ILogger:
        class Severity(Enum):
            INTERNAL_ERROR, ERROR, WARNING = range(3)

    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    BuilderFlag = SimpleNamespace(TF32="tf32")
    LayerInformationFormat = SimpleNamespace(JSON="json")
    TensorLocation = SimpleNamespace(DEVICE="device")
    ComputeCapability = Enum("ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM120")

    def __init__(self, version: str = "10.4.0", device: Any = None) -> None:
        self.__name__ = "tensorrt"
        self.__version__ = version
        self.device = device
        self.log: list[Any] = []
        self.layers = ["Half", "Half", "Float", "Int64"]
        self.types: dict[str, DataType] = {}
        self.shapes: dict[str, list[int]] = {}
        self.refused: list[tuple[str, str, str]] = []
        self.builds = True
        self.runs = True
        # name and array of an output -> what the engine gives in its place
        self.altered: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array
        self.capturable = True
        self.profiles: list[tuple[str, list[tuple[int, ...]]]] = []
        self.plugins = True  # whether it takes plugin libraries
        self.creators: dict[tuple[str, str, str], object] = {}

    @staticmethod
    def read(content: bytes) -> bytes:
        """The graph that the double runs for a file."""
        return content

    def get_plugin_registry(self) -> Any:
        """Takes every library for that of the attention's plugin."""

        def load(path: str) -> None:
            self.log.append(("library", path))
            if self.plugins:
                self.creators["ms_deform_attn_fused", "1", "rfdetr"] = object()

        return SimpleNamespace(
            load_library=load,
            get_creator=lambda name, version, namespace: self.creators.get(
                (name, version, namespace)
            ),
        )

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        network = SimpleNamespace(content=b"", num_layers=0)
        config = SimpleNamespace()
        config.set_memory_pool_limit = lambda pool, size: self.log.append((pool, size))
        config.set_flag = config.clear_flag = lambda flag: None
        config.create_timing_cache = lambda content: self.log.append(("cache", content)) or "cache"
        config.set_timing_cache = lambda cache, ignore_mismatch: True
        config.get_timing_cache = lambda: SimpleNamespace(serialize=lambda: b"timings")
        config.add_optimization_profile = self.log.append
        config.set_compute_capability = lambda kind, at: self.log.append((kind.name, at))
        return SimpleNamespace(
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: self.profiles.append((name, list(shapes)))
            ),
            create_network=lambda flags: self.log.append(("flags", flags)) or network,
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: self._serialized(network, config),
        )

    def _serialized(self, network: Any, config: Any) -> bytes | None:
        self.log.append(("level", config.builder_optimization_level, config.profiling_verbosity))
        self.logger.log(self.ILogger.Severity.ERROR, "no tactic for node x (In place.cpp:1)")
        return PREFIX + network.content if self.builds else None

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(content: bytes) -> bool:
            network.content = self.read(content)
            return not self.refused

        def get_error(index: int) -> Any:
            node, operator, why = self.refused[index]
            return SimpleNamespace(
                node_name=lambda: node, node_operator=lambda: operator, desc=lambda: why
            )

        return SimpleNamespace(parse=parse, num_errors=len(self.refused), get_error=get_error)

    def Runtime(self, logger: Any) -> Any:
        def deserialize(content: bytes) -> FakeEngine | None:
            try:
                onnx.load_model_from_string(content.removeprefix(PREFIX))
                return (
                    FakeEngine(self, content.removeprefix(PREFIX))
                    if content.startswith(PREFIX)
                    else None
                )
            except Exception:
                logger.log(self.ILogger.Severity.ERROR, "magic tag does not match")
                return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class FakeDevice:
    """Does what is put on its stream when it is synchronised, as a GPU might; a capture records
    instead.
    """

    stream = 77
    api = "torch"
    index = 0

    def __init__(self, gpu: Gpu = A10) -> None:
        self.gpu, self.waiting, self.captured = gpu, list[Callable[[], None]](), None
        self.log: list[str] = []

    def do(self, work: Callable[[], None]) -> bool:
        (self.waiting if self.captured is None else self.captured).append(work)
        return True

    def buffer(self, size_bytes: int) -> Any:
        memory = np.zeros(size_bytes, np.uint8)
        host = np.zeros(size_bytes, np.uint8)
        return SimpleNamespace(
            host=host,
            address=memory.ctypes.data,
            memory=memory,
            upload=lambda: self.do(lambda: np.copyto(memory, host)),
            download=lambda: self.do(lambda: np.copyto(host, memory)),
        )

    def synchronize(self) -> None:
        assert self.captured is None, "synchronising invalidates a capture"
        self.log.append("synchronize")
        while self.waiting:
            self.waiting.pop(0)()

    def run(self, enqueue: Callable[[], object]) -> None:
        enqueue()
        self.synchronize()
        self.elapsed_ms = 1.5

    def close(self) -> None:
        self.log.append("close")


class FakeCudaRuntime:
    """The five calls of cuda-bindings' runtime that a capture makes; ``fails`` names one that
    reports an error.
    """

    cudaError_t = Enum("cudaError_t", {"cudaSuccess": 0, "cudaErrorStreamCaptureUnsupported": 900})
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, device: FakeDevice, fails: str = "") -> None:
        self.device, self.fails, self.calls = device, fails, list[str]()

    def _code(self, name: str) -> Any:
        self.calls.append(name)
        return (
            self.cudaError_t.cudaErrorStreamCaptureUnsupported
            if name == self.fails
            else self.cudaError_t.cudaSuccess
        )

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any]:
        assert stream == self.device.stream and not self.device.waiting
        code = self._code("cudaStreamBeginCapture")
        self.device.captured = None if self.fails == "cudaStreamBeginCapture" else []
        return (code,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, Any]:
        work, self.device.captured = self.device.captured, None
        return self._code("cudaStreamEndCapture"), work

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]:
        return self._code("cudaGraphInstantiate"), list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any]:
        graph.clear()
        return (self._code("cudaGraphDestroy"),)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any]:
        graph.clear()
        return (self._code("cudaGraphExecDestroy"),)

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any]:
        for work in graph:
            self.device.do(work)
        return (self._code("cudaGraphLaunch"),)


def failing_enqueue() -> None:
    raise StatedFailure("the engine does not run")


class Setup:
    """One ONNX file, its engine, and doubles that a test may spoil."""

    def __init__(self, onnx: Artifact, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = FakeDevice(A10)
        self.trt = FakeTrt(device=self.device)
        self.runtime = FakeCudaRuntime(self.device)
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", self.runtime)  # type: ignore[arg-type]
        for place in (engine_module, session_module):
            monkeypatch.setattr(place, "open_device", lambda *_: self.device)
        self.onnx, self.engine = onnx, build_engine(onnx, "tensorrt", folder)

    def open(self, *, cuda_graph: bool = False) -> TrtSession:
        return TrtSession(self.engine, "tensorrt", cuda_graph=cuda_graph)

    def altered(self, content: bytes) -> Artifact:
        manifest = replace(
            self.engine.manifest, sha256=sha256_bytes(content), size_bytes=len(content)
        )
        return write_artifact(self.engine.path.with_name("altered.engine"), content, manifest)
