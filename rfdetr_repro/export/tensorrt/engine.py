"""Builds a TensorRT or TensorRT-RTX engine from an ONNX artifact; the manifest states the GPU, the
ONNX file and the precision of the layers.

    python -m rfdetr_repro.export.tensorrt MODEL.onnx --backend tensorrt-rtx \
        [--out FOLDER] [--builds 3]

Networks are strongly typed: the engine has the types of the graph, and a float16 engine is made
from a float16 graph (``export/half.py``); TensorRT 11 would silently ignore a builder flag.
TensorRT builds on the GPU that will run the engine; TensorRT-RTX builds anywhere, for compute
capability 8.0 and later, or for one capability that is asked for, such as 7.5 (T4), for which the
library has no float32 products. Engines differ from build to build by tactic timing, so builds are
numbered (``build``), and each has a timing cache of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rfdetr_repro.export.artifact import Artifact, load_artifact, manifest_path, write_artifact
from rfdetr_repro.export.plugin import (
    PLUGIN,
    check_runtime,
    load_plugin,
    needs_plugin,
    plugin_sha256,
)
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import open_input, sha256_bytes, writable_folder, write_atomic

from .census import engine_census, network_census, precision_of
from .cuda_device import ANY, Chosen, open_device

log = logging.getLogger(__name__)

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# oldest supported version, and the first that is not supported
VERSIONS = {"tensorrt": ((10, 4), (12, 0)), "tensorrt-rtx": ((1, 2), (2, 0))}
# of TensorRT, reported to compute GridSample in attention wrongly; NVIDIA/TensorRT issue 4813
WRONG_GRID_SAMPLE = (10, 14)
AHEAD_OF_TIME = "any of compute capability 8.0 or later"
ONE_CAPABILITY = "compute capability "  # and the capability, of an engine for this one alone
TURING = "7.5"  # the only capability below 8.0 that TensorRT-RTX builds for
BATCHES = (1, 8, 32)  # of an engine for any number of images, unless the options say otherwise
WORKSPACE_BYTES = 4 << 30  # as in upstream's export (architecture facts section 11)


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build: ``optimization_level`` in 0..5; ``tf32`` lets float32 products use 10-bit
    mantissas; ``build`` numbers the builds of one file; ``batches`` are the least number of images,
    the number that tactics are chosen for, and the largest, for a file with an open batch (default
    BATCHES). ``capability``: of TensorRT-RTX, the only compute capability to build for, such as
    "7.5"; None: 8.0 and later, or that of the GPU that is there if it is 7.5.
    """

    optimization_level: int = 3
    tf32: bool = False
    build: int = 0
    batches: tuple[int, int, int] | None = None
    capability: str | None = None

    def __post_init__(self) -> None:
        least, usual, most = self.batches or BATCHES
        if not 1 <= least <= usual <= most:
            raise InputError(
                f"the batches {least}, {usual}, {most} are not in order",
                hint="give the least, the usual and the largest number of images, such as 1,8,32",
            )
        if not 0 <= self.optimization_level <= 5 or self.build < 0:
            raise InputError(
                f"level {self.optimization_level}, build {self.build}",
                hint="level 0 to 5, build 0 or more",
            )


class Messages:
    """The error messages that the logger of :func:`make_logger` collects."""

    def __init__(self) -> None:
        """Starts without messages."""
        self.errors: list[str] = []

    def last(self) -> str:
        """The most recent error, without the location in TensorRT's sources."""
        return self.errors[-1].split(" (In ")[0] if self.errors else "no reason given"


def load_backend(backend: str) -> Any:
    """The Python module of ``backend``; raises :class:`InputError` if the package is not installed
    or its version is not supported.
    """
    if backend not in MODULES:
        raise InputError(f"unknown backend {backend!r}", hint=f"choose {' or '.join(MODULES)}")
    try:
        module = importlib.import_module(MODULES[backend])
        found = tuple(int(part) for part in module.__version__.split(".")[:2])
    except (
        ImportError,
        OSError,
        RuntimeError,
        AttributeError,
        ValueError,
    ) as error:
        hint = f'pip install "rfdetr-repro[{backend}]"'
        raise InputError(
            f"{backend} is not installed ({type(error).__name__}: {error})", hint=hint
        ) from error
    first, end = VERSIONS[backend]
    if not first <= found < end:
        wanted = f">={first[0]}.{first[1]},<{end[0]}"
        raise InputError(
            f"{backend} {module.__version__} is not supported",
            hint=f'pip install "{backend}{wanted}"',
        )
    return module


def target(backend: str, chosen: Chosen = ANY, capability: str | None = None) -> tuple[Any, str]:
    """The module, and the GPU that an engine would be built for; raises :class:`InputError` where
    no engine can be built. ``chosen``: the device of this machine; ``capability``: as in
    :class:`BuildOptions`.
    """
    trt = load_backend(backend)
    if backend != "tensorrt-rtx":
        if capability is not None:
            raise InputError(
                f"{backend} builds for the GPU of this machine, not for compute capability "
                f"{capability}",
                hint="leave the capability out, or choose the backend tensorrt-rtx",
            )
        return trt, str(open_device(chosen).gpu)
    capability = capability or _turing_here(chosen)
    if capability is None:
        return trt, AHEAD_OF_TIME
    if capability not in capabilities(trt):
        raise InputError(
            f"{backend} {trt.__version__} does not build for compute capability {capability}",
            hint=f"choose one of {', '.join(capabilities(trt)) or 'none'}",
        )
    return trt, ONE_CAPABILITY + capability


def capabilities(trt: Any) -> tuple[str, ...]:
    """The compute capabilities that TensorRT-RTX can build for alone, such as "7.5"."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", ())
    numbers = [name.removeprefix("SM") for name in names if name.startswith("SM")]
    return tuple(f"{number[:-1]}.{number[-1]}" for number in numbers)


def _turing_here(chosen: Chosen) -> str | None:
    """TURING where the GPU of this machine has this capability; None also without a GPU."""
    try:
        gpu = open_device(chosen).gpu
    except InputError:
        return None
    return TURING if gpu.capability == (7, 5) else None


def make_logger(trt: Any, messages: Messages) -> Any:
    """A TensorRT logger that collects errors in ``messages`` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.errors.append(text)

    return Logger()


def build_engine(
    artifact: Artifact,
    backend: str,
    folder: str | Path,
    options: BuildOptions | None = None,
    *,
    name: str | None = None,
    chosen: Chosen = ANY,
) -> Artifact:
    """Builds the engine of an ONNX artifact in ``folder``, or finds it there: ``NAME-KEY.engine``
    with its manifest.

    KEY is a hash of ONNX file, backend and its version, GPU and options, so that no other engine is
    taken for this one. ``name``: another file name, whose engine is always built anew. A file with
    an open batch gets a profile of ``options.batches``. ``chosen``: the device of this machine.
    Warns of a GridSample that the version is reported to compute wrongly. Outputs are not compared
    here: ``runtime/engine_check.py`` does that. Raises :class:`InputError` without the package or
    the GPU, and for nodes that the parser refuses, which the error names.
    """
    options = options or BuildOptions()
    if artifact.manifest.format != "onnx":
        raise InputError(
            f"an engine is built from an ONNX file, not from a {artifact.manifest.format} file",
            artifact.path,
            "give the ONNX file that the engine was built from",
        )
    if options.batches is not None and not artifact.manifest.open_batch:
        raise InputError(
            f"a profile of batches is for a file that takes any number of images, and this file "
            f"takes {artifact.manifest.images_per_run}",
            artifact.path,
            "export the model with --batch dynamic",
        )
    check_runtime(artifact, backend)
    trt, where = target(backend, chosen, options.capability)
    batches = (options.batches or BATCHES) if artifact.manifest.open_batch else None
    # a capability is part of ``where``
    named = {
        key: value for key, value in asdict(options).items() if key not in ("batches", "capability")
    }
    if batches is not None:
        named["batches"] = ",".join(map(str, batches))
    identity: dict[str, Any] = {
        "onnx": artifact.sha256,
        "backend": backend,
        "version": trt.__version__,
        "gpu": where,
        **named,
    }
    if needs_plugin(artifact.manifest):
        identity[PLUGIN] = plugin_sha256()
        load_plugin(trt)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = writable_folder(folder) / (name or f"{artifact.path.stem}-{key}.engine")
    if name is None and path.is_file() and manifest_path(path).is_file():
        return load_artifact(path)
    with open_input(artifact.path) as stream:
        content = stream.read()
    if sha256_bytes(content) != artifact.sha256:
        raise InputError(
            "the file changed since it was loaded", artifact.path, "load the file again"
        )
    _warn_of_grid_sample(trt, backend, content, artifact.path)
    cache = path.with_name(
        f"timing-{sha256_bytes(f'{trt.__version__} {where} {options.build}'.encode())[:16]}.cache"
    )
    start = time.perf_counter()
    inputs = {spec.name: spec.shape for spec in artifact.manifest.inputs}
    profile = {
        name: [(count, *shape[1:]) for count in batches or ()] for name, shape in inputs.items()
    }
    engine, census, source = _built(
        trt,
        content,
        options,
        artifact.path,
        where=where,
        cache=None if backend == "tensorrt-rtx" else cache,
        profile=profile if batches else {},
    )
    build = {name: str(value) for name, value in identity.items() if name != "onnx"}
    build |= {
        "seconds": f"{time.perf_counter() - start:.1f}",
        "census": source,
        "onnx_precision": artifact.manifest.precision,
    }
    manifest = replace(
        artifact.manifest,
        sha256=sha256_bytes(engine),
        size_bytes=len(engine),
        format=backend,
        onnx_sha256=artifact.sha256,
        precision=precision_of(artifact.manifest.precision, census),
        census=census,
        build={**artifact.manifest.build, **build},
    )
    return write_artifact(path, engine, manifest)


def _warn_of_grid_sample(trt: Any, backend: str, content: bytes, path: Path) -> None:
    """Warns before the build of a file with the GridSample chain by a version that is reported to
    compute it wrongly.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if backend != "tensorrt" or version < WRONG_GRID_SAMPLE:
        return
    import onnx

    model = onnx.load_model_from_string(content)
    functions = [node for function in model.functions for node in function.node]
    if any(node.op_type == "GridSample" for node in (*model.graph.node, *functions)):
        first = ".".join(map(str, WRONG_GRID_SAMPLE))
        log.warning(
            f"{path}: TensorRT from {first} on is reported to compute GridSample wrongly, and "
            f"{trt.__version__} is installed; the engine's outputs are compared before it is used "
            f"(--attention plugin exports the model without GridSample)"
        )


def _built(
    trt: Any,
    content: bytes,
    options: BuildOptions,
    path: Path,
    *,
    where: str,
    cache: Path | None,
    profile: Mapping[str, Sequence[tuple[int, ...]]],
) -> tuple[bytes, dict[str, int], str]:
    """Engine, layers by precision, and the source of that count: "engine", or "network" where no
    GPU can load the engine. ``profile``: input -> least, usual and largest shape, of a file with an
    open batch.
    """
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise InputError(
            f"{trt.__name__} refuses {_refused(parser)}",
            path,
            "use operators that TensorRT supports, or choose the backend onnxruntime",
        )
    config = builder.create_builder_config()
    _configure(trt, config, options, cache)
    if where.startswith(ONE_CAPABILITY):
        number = where.removeprefix(ONE_CAPABILITY).replace(".", "")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), 0)
    if profile:
        shapes = builder.create_optimization_profile()
        for name, (least, usual, most) in profile.items():
            shapes.set_shape(name, least, usual, most)
        config.add_optimization_profile(shapes)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        for_one = f" for {where}" if where.startswith(ONE_CAPABILITY) else ""
        raise StatedFailure(f"{trt.__name__} could not build {path}{for_one}: {messages.last()}")
    engine = bytes(serialized)
    if cache is not None:
        write_atomic(cache, bytes(config.get_timing_cache().serialize()))
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine) if cache is not None else None
    if loaded is None:
        return engine, network_census(network), "network"
    layers = loaded.create_engine_inspector().get_engine_information(
        trt.LayerInformationFormat.JSON
    )
    return engine, engine_census(layers), "engine"


def _configure(trt: Any, config: Any, options: BuildOptions, cache: Path | None) -> None:
    config.builder_optimization_level = options.optimization_level
    # otherwise the inspector returns only names
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if cache is not None:  # TensorRT-RTX does not time tactics
        content = cache.read_bytes() if cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)


def _refused(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    errors = [
        f"node {e.node_name() or '?'} ({e.node_operator() or '?'}): "
        f"{e.desc().splitlines()[-1][:160]}"
        for e in errors
    ]
    return (
        "; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
        or "the file"
    )


def summary(
    engine: Artifact,
    agreement: str = "its outputs are compared with those of the ONNX file when it is first opened",
) -> str:
    """One line with path, size, precision of the layers, build time, and what is known of the
    outputs.
    """
    manifest = engine.manifest
    layers = ", ".join(f"{count} {kind}" for kind, count in manifest.census.items())
    types = f"{manifest.precision} (layers of the {manifest.build['census']}: {layers})"
    return (
        f"{engine.path}  {manifest.size_bytes / 1e6:.1f} MB  {types}  built in "
        f"{manifest.build['seconds']} s for {manifest.build['gpu']}; {agreement}"
    )
