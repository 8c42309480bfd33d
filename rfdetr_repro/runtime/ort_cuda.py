"""ONNX Runtime on an NVIDIA GPU, with buffers bound on the device, so that ``launch`` copies
nothing.

ONNX Runtime puts what a provider cannot run on the CPU, and a session whose provider does not load
on the CPU altogether. Both are refused here: a row of this backend ran on the GPU alone. Products
are float32 as written, not TF32.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.contract import UNKNOWN, check_images
from rfdetr_repro.spec.errors import InputError, StatedFailure

from .session import Array, Detections, OrtSession, identity_of

WARMUP = 3  # runs that choose convolution algorithms and, with a CUDA graph, capture it


class OrtCudaSession(OrtSession):
    """``bind`` is the copy to the device, ``launch`` a run on it, synchronised, ``outputs`` the
    copy back.
    """

    provider = "CUDAExecutionProvider"
    device = "cuda"
    runtime = "onnxruntime-cuda"
    provider_options: ClassVar[dict[str, str]] = {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
    }

    def __init__(self, artifact: Artifact, threads: int = 2, *, cuda_graph: bool = False) -> None:
        """``threads``: of the host side.

        ``cuda_graph``: ONNX Runtime captures one here and replays it in ``launch``.
        """
        check_provider(self.provider)
        self._captured = cuda_graph
        options = {**self.provider_options, **({"enable_cuda_graph": "1"} if cuda_graph else {})}
        self._load(artifact, threads, options)
        self._allocate(artifact)
        chosen = " ".join(f"{name}={value}" for name, value in options.items())
        settings = f"threads={threads} graph=all {chosen} ort={onnxruntime.__version__}"
        self.artifact_id = identity_of(artifact, self.runtime, " ".join(settings.split()))
        for _ in range(WARMUP):
            self.run(np.zeros(self._input.shape, np.float32))

    def _load(self, artifact: Artifact, threads: int, options: dict[str, str]) -> None:
        """Opens the file on this provider alone, with these options; says which of the ways to fail
        it was.
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
                what = f"{self.provider} leaves nodes of the model to the CPU"
                raise InputError(what, artifact.path, "choose another backend") from error
        self._check_provider(artifact, complaint)
        used = self._session.get_provider_options().get(self.provider, {})
        if ignored := sorted(
            f"{name}={value}" for name, value in options.items() if used.get(name) != value
        ):
            raise StatedFailure(f"{self.provider} does not take {', '.join(ignored)}")

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
                "install a driver and CUDA libraries that fit, or choose another backend",
            )

    def _allocate(self, artifact: Artifact) -> None:
        """One buffer on the device for the input and for each output; their addresses never
        change.
        """
        self._binding = self._session.io_binding()
        buffers = []
        for spec in (self._input, *self._output_specs):
            if UNKNOWN in spec.shape:
                raise InputError(
                    f"{spec.name} has no fixed shape {spec.shape}",
                    artifact.path,
                    "export it with fixed shapes",
                )
            dtype = np.dtype(spec.dtype).type
            buffers.append(
                onnxruntime.OrtValue.ortvalue_from_shape_and_type(spec.shape, dtype, self.device, 0)
            )
        self._input_buffer, *self._output_buffers = buffers
        self._binding.bind_ortvalue_input(self._input.name, self._input_buffer)
        for spec, buffer in zip(self._output_specs, self._output_buffers, strict=True):
            self._binding.bind_ortvalue_output(spec.name, buffer)

    def bind(self, images: Array) -> None:
        """Copies to the device."""
        self._input_buffer.update_inplace(check_images(images, self.manifest))

    def launch(self) -> None:
        """Runs on the bound buffers and waits for the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    @property
    def cuda_graph(self) -> bool:
        return self._captured

    def outputs(self) -> Detections:
        """Copies to host memory."""
        return Detections.of([np.array(buffer.numpy()) for buffer in self._output_buffers])


def check_provider(name: str = OrtCudaSession.provider) -> None:
    """Raises :class:`InputError` if the installed onnxruntime was built without this provider."""
    if name not in onnxruntime.get_available_providers():
        hint = "install onnxruntime-gpu in place of onnxruntime, or choose another backend"
        raise InputError(f"this onnxruntime has no {name}", hint=hint)


def _preload() -> str:
    """Loads the CUDA libraries that pip installed, which ONNX Runtime does not find by itself; its
    first complaint, or "".
    """
    preload = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    said = io.StringIO()
    if preload is not None:
        with contextlib.redirect_stdout(said):
            preload()
    return next(iter(said.getvalue().splitlines()), "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, ONNX Runtime's own log on stderr holds fatal errors only: what failed is said once,
    by the exception.
    """
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default: warnings
