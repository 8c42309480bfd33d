"""Running an artifact: one small interface, ``Session``, and its ONNX Runtime implementation on the
CPU.

A session hashes the bytes it really opened, so accuracy and latency taken from it belong to one
file. No torch here; the check against PyTorch is ``runtime/agreement.py``, other backends are
opened by ``runtime/backends.py``.
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

Array = np.ndarray[Any, Any]

_DTYPES = {"float": "float32", "double": "float64"}  # ONNX Runtime's names where numpy has others


class Detections(NamedTuple):
    """Outputs of one image, best first, exactly as the artifact gives them (batch axis of 1
    kept).
    """

    scores: Array  # float32 (1, K) in 0..1
    labels: Array  # int64 (1, K) contiguous
    boxes_xyxy: Array  # float32 (1, K, 4), parts of the image, not clamped
    masks: Array | None  # float32 (1, K, h, w) logits, > 0 is foreground

    @classmethod
    def of(cls, values: Sequence[Array]) -> Detections:
        """From a runtime's arrays in this order, widened to these types where :mod:`contract`
        allows it.
        """
        scores, labels, boxes, *masks = exact(values)
        return cls(scores, labels, boxes, masks[0] if masks else None)


class Session(Protocol):
    """What the benchmark and the evaluation need of any backend.

    ``run`` is ``bind``, ``launch`` and ``outputs`` in a row: latency of ``launch`` alone is the
    engine scope, of all three the device scope (benchmark protocol section 3). Subclasses inherit
    ``run`` and ``gpu_ms``.
    """

    manifest: Manifest
    artifact_id: ArtifactId

    def bind(self, images: Array) -> None:
        """Puts images float32 (1, 3, H, W) RGB in 0..1, H and W as the manifest says, where
        ``launch`` reads them.

        Other shapes and types: :class:`InputError`.
        """
        ...

    def launch(self) -> None:
        """From the bound input to finished outputs where the backend leaves them; returns when they
        are complete.
        """
        ...

    def outputs(self) -> Detections:
        """What the last ``launch`` left, in host memory that no later launch changes."""
        ...

    def run(self, images: Array) -> Detections:
        """The three in a row."""
        self.bind(images)
        self.launch()
        return self.outputs()

    @property
    def gpu_ms(self) -> float | None:
        """Time of the last ``launch`` between two events on the GPU's own stream, in ms; None where
        no events are taken.
        """
        return None

    @property
    def cuda_graph(self) -> bool | None:
        """Whether ``launch`` replays a captured CUDA graph; None where there is nothing to
        capture.
        """
        return None


class OrtSession(Session):
    """ONNX Runtime on the CPU: ``threads`` intra-op threads, all graph optimisations, sequential
    execution.
    """

    def __init__(self, artifact: Artifact, threads: int = 2) -> None:
        self._open(artifact, threads, ["CPUExecutionProvider"], {})
        settings = f"threads={threads} graph=all ort={onnxruntime.__version__}"
        self.artifact_id = identity_of(artifact, "onnxruntime-cpu", settings)
        self._feed: dict[str, Array] = {}
        self._outputs: list[Array] = []

    def _open(
        self, artifact: Artifact, threads: int, providers: list[Any], config: dict[str, str]
    ) -> None:
        """Loads and checks the file; ``providers`` and ``config`` are ONNX Runtime's.

        No other provider takes over on failure.
        """
        self.manifest = artifact.manifest
        content = content_of(artifact, "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is an exception
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's own exception types share no public base class
            raise InputError(
                f"ONNX Runtime cannot load the model ({error})", artifact.path, "export it again"
            ) from error
        self._session.disable_fallback()
        self._output_specs = [_spec(value) for value in self._session.get_outputs()]
        check_outputs(self._output_specs, artifact)
        self._input = check_input([_spec(value) for value in self._session.get_inputs()], artifact)

    def bind(self, images: Array) -> None:
        """No copy: the array itself is what ``launch`` reads."""
        self._feed = {self._input.name: check_images(images, self.manifest)}

    def launch(self) -> None:
        """ONNX Runtime's own call and nothing else; the outputs are new arrays in host memory."""
        self._outputs = self._session.run(None, self._feed)

    def outputs(self) -> Detections:
        return Detections.of(self._outputs)


def identity_of(artifact: Artifact, runtime: str, options: str) -> ArtifactId:
    """Identity of an ONNX file that a runtime takes as it is."""
    manifest = artifact.manifest
    if kind := manifest.packages.get("nms_kind"):
        options = " ".join(filter(None, (options, f"nms={kind}")))
    # the time of suppression follows it, so the row says it
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
