"""Running an artifact: one small interface, ``Session``, and its ONNX Runtime implementation on the
CPU.

A session hashes the bytes that it opened, so the accuracy and the latency that it gives belong to
one file. This module does not import PyTorch; ``runtime/agreement.py`` compares a session with
PyTorch, and ``runtime/backends.py`` opens the other backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact, Manifest, TensorSpec
from rfdetr_repro.export.contract import (
    UNKNOWN,
    check_images,
    check_input,
    check_outputs,
    content_of,
    exact,
)
from rfdetr_repro.records.record import ArtifactId
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import option_of

from .bfloat16 import BFLOAT16, ORT_OPTION, check_onnxruntime

Array = np.ndarray[Any, Any]

# ONNX Runtime's type names that differ from numpy's
_DTYPES = {"float": "float32", "double": "float64"}


class Detections(NamedTuple):
    """Outputs for B images, each in order of falling score, as the artifact gives them; B is 1
    unless the artifact takes more images at once.
    """

    scores: Array  # float32 (B, K) in 0..1
    labels: Array  # int64 (B, K) contiguous
    boxes_xyxy: Array  # float32 (B, K, 4), parts of the image, not clamped
    masks: Array | None  # float32 (B, K, h, w) logits, > 0 is foreground

    def of_image(self, index: int) -> Detections:
        """The detections of one image, with a batch axis of 1."""
        row = slice(index, index + 1)
        masks = None if self.masks is None else self.masks[row]
        return Detections(self.scores[row], self.labels[row], self.boxes_xyxy[row], masks)

    @classmethod
    def of(cls, values: Sequence[Array]) -> Detections:
        """From a runtime's arrays in this order, widened to these types where
        :mod:`rfdetr_repro.export.contract` allows that.
        """
        scores, labels, boxes, *masks = exact(values)
        return cls(scores, labels, boxes, masks[0] if masks else None)


class Session(Protocol):
    """The interface of a backend, used by the benchmark and the evaluation.

    ``run`` calls ``bind``, ``launch`` and ``outputs`` in turn. The engine scope times ``launch``
    alone, the device scope all three (benchmark protocol section 3). Subclasses inherit
    ``run`` and may override ``gpu_ms``.
    """

    manifest: Manifest
    artifact_id: ArtifactId

    def bind(self, images: Array) -> None:
        """Puts ``images`` where ``launch`` reads them.

        ``images``: float32 (B, 3, H, W), RGB in 0..1, with the manifest's batch, height and width.
        Raises :class:`InputError` for other shapes and types.
        """
        ...

    def launch(self) -> None:
        """Runs the model on the bound images and returns when the outputs are complete; they stay
        where the backend leaves them.
        """
        ...

    def outputs(self) -> Detections:
        """Detections of the last ``launch``, in host memory that no later launch changes."""
        ...

    def run(self, images: Array) -> Detections:
        """Binds ``images``, runs the model and returns the detections."""
        self.bind(images)
        self.launch()
        return self.outputs()

    @property
    def gpu_ms(self) -> float | None:
        """Duration of the last ``launch`` in ms between two events on the GPU's stream; None where
        no events are recorded.
        """
        return None

    @property
    def cuda_graph(self) -> bool | None:
        """Whether ``launch`` replays a captured CUDA graph; None on a backend without CUDA
        graphs.
        """
        return None

    @property
    def device_index(self) -> int:
        """The number of the GPU that runs the model, among those that CUDA shows; 0 also on a
        CPU.
        """
        return 0


class OrtSession(Session):
    """ONNX Runtime on the CPU with all graph optimisations and sequential execution."""

    def __init__(self, artifact: Artifact, threads: int = 2) -> None:
        """Opens ``artifact`` with ``threads`` intra-op threads; raises :class:`InputError` if ONNX
        Runtime cannot load the file, or does not have its precision on this processor.
        """
        config = {}
        if artifact.manifest.precision == BFLOAT16:
            check_onnxruntime()
            config = {ORT_OPTION: "1"}
        self._open(artifact, threads, ["CPUExecutionProvider"], config)
        settings = f"threads={threads} graph=all ort={onnxruntime.__version__}"
        settings += " gemm=bf16" if config else ""
        self.artifact_id = identity_of(artifact, "onnxruntime-cpu", settings)
        self._feed: dict[str, Array] = {}
        self._outputs: list[Array] = []

    def _open(
        self, artifact: Artifact, threads: int, providers: list[Any], config: dict[str, str]
    ) -> None:
        """Loads and checks the file with ONNX Runtime's ``providers`` and session configuration
        ``config``.

        No other provider is used if loading fails.
        """
        self.manifest = artifact.manifest
        content = content_of(artifact, "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures raise exceptions
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's own exception types share no public base class
            raise InputError(
                f"ONNX Runtime cannot load the model ({error})",
                artifact.path,
                "export the model again",
            ) from error
        self._session.disable_fallback()
        self._output_specs = [_spec(value) for value in self._session.get_outputs()]
        check_outputs(self._output_specs, artifact)
        self._input = check_input([_spec(value) for value in self._session.get_inputs()], artifact)

    def bind(self, images: Array) -> None:
        """Binds float32 (B, 3, H, W) images without a copy: ``launch`` reads the array itself."""
        self._feed = {self._input.name: check_images(images, self.manifest)}

    def launch(self) -> None:
        """Calls ONNX Runtime and does nothing else; the outputs are new arrays in host memory."""
        self._outputs = self._session.run(None, self._feed)

    def outputs(self) -> Detections:
        """Detections of the last ``launch``; ONNX Runtime allocates new arrays for every run."""
        return Detections.of(self._outputs)


def identity_of(artifact: Artifact, runtime: str, options: str) -> ArtifactId:
    """The identity of an artifact whose file a runtime loads unchanged."""
    manifest = artifact.manifest
    if kind := manifest.packages.get("nms_kind"):
        options = " ".join(filter(None, (options, f"nms={kind}")))
    # the duration of the suppression depends on this number, so the identity holds the number
    if injected := manifest.packages.get("injected_candidates"):
        options = " ".join(filter(None, (options, f"injected_candidates={injected}")))
    options = " ".join(filter(None, (options, option_of(manifest.resize))))
    return ArtifactId(
        manifest.sha256, manifest.sha256, runtime, manifest.precision, manifest.size_bytes, options
    )


def _spec(value: Any) -> TensorSpec:
    """An input or output as ONNX Runtime describes it."""
    name = str(value.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else UNKNOWN for size in value.shape)
    return TensorSpec(value.name, shape, _DTYPES.get(name, name))
