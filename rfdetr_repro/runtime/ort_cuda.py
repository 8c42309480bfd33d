"""ONNX Runtime on an NVIDIA GPU, with buffers bound on the device, so that ``launch`` copies
nothing.

ONNX Runtime moves nodes that a provider cannot run to the CPU, and runs the whole session there if
the provider does not load. Both are refused here, so that every row of this backend ran on the GPU
alone. Matrix products are computed in float32, not in TF32.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.contract import UNKNOWN, check_images
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .session import Array, Detections, OrtSession, identity_of

# runs in which convolution algorithms are chosen and the CUDA graph, if any, is captured
WARMUP = 3


class OrtCudaSession(OrtSession):
    """ONNX Runtime's CUDA provider: ``bind`` copies to the device, ``launch`` runs there and waits,
    ``outputs`` copies back.
    """

    provider = "CUDAExecutionProvider"
    device = "cuda"
    runtime = "onnxruntime-cuda"
    provider_options: ClassVar[dict[str, str]] = {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
    }

    def __init__(self, artifact: Artifact, threads: int = 2, *, cuda_graph: bool = False) -> None:
        """Loads the model on the GPU, binds the buffers and runs the model WARMUP times.

        ``threads``: number of host threads. ``cuda_graph``: ONNX Runtime captures a CUDA graph here
        and replays the graph in ``launch``.
        """
        check_provider(self.provider)
        self._captured = cuda_graph
        options = {**self.provider_options, **({"enable_cuda_graph": "1"} if cuda_graph else {})}
        if cuda_graph and artifact.manifest.open_batch:
            raise InputError(
                "a CUDA graph of ONNX Runtime needs a fixed number of images; the file takes any",
                artifact.path,
                "export the model with --batch NUMBER, or leave the CUDA graph out",
            )
        self._load(artifact, threads, options)
        self._allocate(artifact.manifest.images_per_run, artifact.path)
        chosen = " ".join(f"{name}={value}" for name, value in options.items())
        settings = f"threads={threads} graph=all {chosen} ort={onnxruntime.__version__}"
        self.artifact_id = identity_of(artifact, self.runtime, " ".join(settings.split()))
        for _ in range(WARMUP):
            self.run(np.zeros(self._input_buffer.shape(), np.float32))

    def _load(self, artifact: Artifact, threads: int, options: dict[str, str]) -> None:
        """Opens the file on this provider alone; an :class:`InputError` names the cause of a
        failure: nodes left to the CPU, an option that is ignored, or a provider that does not load.
        """
        providers: list[Any] = [(self.provider, options)]
        complaint = _preload()
        with _quiet():
            try:
                self._open(
                    artifact,
                    threads,
                    providers,
                    {} if self.device == "cpu" else {"session.disable_cpu_ep_fallback": "1"},
                )
            except InputError as error:
                # a long message is shortened
                if "fallback to CPU" not in str(error.__cause__ or error):
                    raise
                self._open(artifact, threads, providers, {})
                self._check_provider(artifact, complaint)
                what = (
                    f"{self.provider} cannot run all nodes of the model and leaves some to the CPU"
                )
                raise InputError(what, artifact.path, "choose another backend") from error
        self._check_provider(artifact, complaint)
        used = self._session.get_provider_options().get(self.provider, {})
        if ignored := sorted(
            f"{name}={value}" for name, value in options.items() if used.get(name) != value
        ):
            raise StatedFailure(f"{self.provider} ignores the options {', '.join(ignored)}")

    def _check_provider(self, artifact: Artifact, complaint: str) -> None:
        found = self._session.get_providers()
        if found[:1] != [self.provider]:
            what = (
                f"{self.provider} did not load ({complaint or 'no usable device'}), ONNX Runtime "
                f"would run on {', '.join(found)}"
            )
            raise InputError(
                what,
                artifact.path,
                "install a matching driver and CUDA libraries, or choose another backend",
            )

    def _allocate(self, batch: int, path: str | Path) -> None:
        """Allocates device buffers for the input and for each output, of ``batch`` images where
        the file leaves their number open; the addresses change only with the batch.
        """
        self._path = path
        self._binding = self._session.io_binding()
        buffers = []
        for spec in (self._input, *self._output_specs):
            shape = (batch, *spec.shape[1:]) if self.manifest.open_batch else spec.shape
            if UNKNOWN in shape:
                raise InputError(
                    f"{spec.name} has the shape {spec.shape}, which is not fixed",
                    path,
                    "export the model with fixed shapes",
                )
            dtype = np.dtype(spec.dtype).type
            buffers.append(
                onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self.device, 0)
            )
        self._input_buffer, *self._output_buffers = buffers
        self._binding.bind_ortvalue_input(self._input.name, self._input_buffer)
        for spec, buffer in zip(self._output_specs, self._output_buffers, strict=True):
            self._binding.bind_ortvalue_output(spec.name, buffer)

    def bind(self, images: Array) -> None:
        """Copies float32 (B, 3, H, W) images to the device."""
        given = check_images(images, self.manifest)
        if list(given.shape) != list(self._input_buffer.shape()):
            self._allocate(len(given), self._path)
        self._input_buffer.update_inplace(given)

    def launch(self) -> None:
        """Runs on the bound buffers and waits for the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    @property
    def cuda_graph(self) -> bool:
        """Whether ``launch`` replays a captured CUDA graph."""
        return self._captured

    def outputs(self) -> Detections:
        """Copies the outputs to host memory."""
        return Detections.of([np.array(buffer.numpy()) for buffer in self._output_buffers])


def check_provider(name: str = OrtCudaSession.provider) -> None:
    """Raises :class:`InputError` if the installed onnxruntime was built without this provider."""
    if name not in onnxruntime.get_available_providers():
        hint = "install onnxruntime-gpu in place of onnxruntime, or choose another backend"
        raise InputError(f"this onnxruntime has no {name}", hint=hint)


def _preload() -> str:
    """Loads the CUDA libraries that pip installed, which ONNX Runtime does not find by itself;
    returns the first line that ONNX Runtime prints, or "".
    """
    preload = getattr(onnxruntime, "preload_dlls", None)  # since ONNX Runtime 1.21
    printed = io.StringIO()
    if preload is not None:
        with contextlib.redirect_stdout(printed):
            preload()
    return next(iter(printed.getvalue().splitlines()), "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Limits ONNX Runtime's own log on stderr to fatal errors, so that a failure is reported once,
    by the exception.
    """
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # ONNX Runtime's default: warnings
