"""Doubles for tests of the benchmark: a clock that only runs move, sessions without a runtime,
artifacts that are a few bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfdetr_repro.export.artifact import Artifact, Manifest, TensorSpec, write_artifact
from rfdetr_repro.records.record import ArtifactId, ModelId
from rfdetr_repro.runtime.session import Detections
from rfdetr_repro.spec.files import sha256_bytes

COUNT = 5


class VirtualClock:
    """A clock that advances only by runs and waits."""

    def __init__(self) -> None:
        # type: ignore[var-annotated]
        self.ns = 0
        self.slept = []

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ns += round(seconds * 1e9)

    def taking(self, *durations_ms: float) -> Callable[[], None]:
        """A run that takes these times in turn, the last for ever."""
        left = list(durations_ms)

        def run() -> None:
            self.ns += round((left.pop(0) if len(left) > 1 else left[0]) * 1e6)

        return run


class Bench:
    """A clock, and models whose runs take a given time of it."""

    def __init__(self) -> None:
        self.ns = 0
        self.slept: list[float] = []
        self.log: list[str] = []

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.log.append("sleep")
        self.ns += round(seconds * 1e9)

    def model(self, name: str, duration_ms: Callable[[int], float]) -> Callable[[], None]:
        count = iter(range(10**9))

        def run() -> None:
            self.log.append(name)
            self.ns += round(duration_ms(next(count)) * 1e6)

        return run


def fake_artifact(
    folder: Path,
    name: str = "m",
    *,
    precision: str = "fp32",
    weights: str = "trained",
    salt: str = "",
) -> Artifact:
    """A file no runtime could open, with a sound manifest."""
    content = f"{name} {precision} {salt}".encode()
    manifest = Manifest(
        sha256_bytes(content),
        len(content),
        ModelId("rfdetr", name, weights=weights),
        ("car", "cat", "toothbrush"),
        (3, 17, 90),
        (TensorSpec("image", (1, 3, 8, 16), "float32"),),
        (
            TensorSpec("scores", (1, COUNT), "float32"),
            TensorSpec("labels", (1, COUNT), "int64"),
            TensorSpec("boxes", (1, COUNT, 4), "float32"),
        ),
        10,
        20,
        precision,
    )
    return write_artifact(folder / f"{name}-{precision}{salt}.onnx", content, manifest)


class FakeSession:
    """Counts what is asked of it.

    ``engine``: SHA-256 of an engine made from the artifact, else the file itself runs.
    """

    def __init__(
        self, artifact: Artifact, engine: str = "", runtime: str = "onnxruntime-cpu"
    ) -> None:
        self.manifest, digest = artifact.manifest, artifact.sha256
        self.artifact_id = ArtifactId(
            engine or digest, digest, runtime, artifact.manifest.precision, 1
        )
        self.log: list[str] = []
        self.score = 0.5
        self.gpu_ms: float | None = None
        self.cuda_graph: bool | None = None

    def bind(self, images: np.ndarray) -> None:
        assert images.shape == (1, 3, 8, 16) and images.dtype == np.float32
        self.log.append("bind")

    def launch(self) -> None:
        self.log.append("launch")

    def outputs(self) -> Detections:
        self.log.append("outputs")
        scores = np.full((1, COUNT), self.score, np.float32)
        boxes = np.tile(np.float32([0.0, 0.0, 0.5, 1.5]), (1, COUNT, 1))
        return Detections(scores, np.zeros((1, COUNT), np.int64), boxes, None)

    def run(self, images: np.ndarray) -> Detections:
        self.bind(images)
        self.launch()
        return self.outputs()
