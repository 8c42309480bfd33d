"""Running an artifact: one small interface, ``Session``, and its ONNX Runtime implementation.

A session hashes the bytes it really opened, so accuracy and latency taken from it belong to one file. No torch here; the check
against PyTorch is ``export/agreement.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime

from ..errors import InputError
from ..files import open_input, sha256_bytes
from ..record import ArtifactId
from .artifact import Artifact, Manifest

Array = np.ndarray[Any, Any]


class Detections(NamedTuple):
    """Outputs of one image, best first, exactly as the artifact gives them (batch axis of 1 kept)."""

    scores: Array  # float32 (1, K) in 0..1
    labels: Array  # int64 (1, K) contiguous
    boxes_xyxy: Array  # float32 (1, K, 4), parts of the image, not clamped
    masks: Array | None  # float32 (1, K, h, w) logits, > 0 is foreground


class Session(Protocol):
    """What the benchmark and the evaluation need of any backend."""

    manifest: Manifest

    @property
    def artifact_id(self) -> ArtifactId: ...

    def run(self, images: Array) -> Detections:
        """images float32 (1, 3, H, W) RGB in 0..1, H and W as the manifest says."""
        ...


class OrtSession:
    """ONNX Runtime on the CPU: ``threads`` intra-op threads, all graph optimisations, sequential execution."""

    def __init__(self, artifact: Artifact, threads: int = 2) -> None:
        self.manifest = artifact.manifest
        with open_input(artifact.path) as stream:
            content = stream.read()
        digest = sha256_bytes(content)
        if digest != artifact.sha256:
            raise InputError("the file changed since it was loaded", artifact.path, "load it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types share no public base class
            raise InputError(f"ONNX Runtime cannot load the model ({error})", artifact.path, "export it again") from error
        self._names = [output.name for output in self._session.get_outputs()]
        if self._names not in (["scores", "labels", "boxes"], ["scores", "labels", "boxes", "masks"]):
            mend = "export it again" if self.manifest.contract == "decoded" else "measure an export of the decoded contract"
            raise InputError(f"outputs {self._names} are not ranked detections", artifact.path, mend)
        spec = self.manifest.inputs[0]
        self._input_name, self._input_shape = spec.name, spec.shape
        settings = f"threads={threads} graph=all ort={onnxruntime.__version__}"
        precision, size = self.manifest.precision, len(content)
        self.artifact_id = ArtifactId(digest, digest, "onnxruntime-cpu", precision, size, settings)

    def run(self, images: Array) -> Detections:
        """images float32 (1, 3, H, W) RGB in 0..1 -> :class:`Detections`. Other shapes and types: :class:`InputError`."""
        if images.shape != self._input_shape or images.dtype != np.float32:
            wanted, given = f"float32 {self._input_shape}", f"{images.dtype} {images.shape}"
            raise InputError(f"the artifact takes {wanted}, not {given}", self.manifest.model.name, "resize the image")
        outputs = self._session.run(self._names, {self._input_name: images})
        scores, labels, boxes = outputs[:3]
        return Detections(scores, labels, boxes, outputs[3] if len(outputs) == 4 else None)
