"""A detector of a few thousand parameters with random weights, its artifact, and doubles of
sessions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rfdetr_repro.export.artifact import Artifact, ArtifactMeta
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import ModelId
from rfdetr_repro.runtime.session import Detections, Session
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.model_config import ModelConfig

CONFIG = ModelConfig(
    vit_dim=24,
    vit_heads=2,
    vit_depth=3,
    layer_scale=True,
    feature_stages=(1, 3),
    global_blocks=(1,),
    hidden=16,
    projector_blocks=1,
    self_heads=2,
    cross_heads=4,
    ffn=32,
    decoder_layers=2,
    queries=8,
    groups=2,
    num_classes=3,
    masks=True,
    patch=8,
    pos_grid=4,
    proposal_side=0.2,
)
ARCH = Arch(32, 8, 1, 2, 8)
# as in samples_coco
NAMES = ("car", "cat", "toothbrush")
CATEGORY_IDS = (3, 17, 90)


def tiny_detector(seed: int = 0, **changes: object) -> Detector:
    """Every weight is random, so that no branch is the identity."""
    torch.manual_seed(seed)
    detector = Detector(replace(CONFIG, **changes), ARCH).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


def tiny_weights(path: Path) -> Path:
    """A tiny detector as a file of weights."""
    detector = tiny_detector()
    card = ModelCard(detector.config, ARCH, NAMES, CATEGORY_IDS)
    save_detector(path, detector.state_dict(), card)
    return path


def meta(weights: str = "trained") -> ArtifactMeta:
    return ArtifactMeta(ModelId("rfdetr", "tiny", weights=weights), NAMES, CATEGORY_IDS)


def tiny_artifact(
    folder: Path, detector: Detector | None = None, arch: Arch = ARCH, weights: str = "trained"
) -> Artifact:
    return export_onnx(
        (detector or tiny_detector()).slice(arch), folder / f"{arch.key}.onnx", meta=meta(weights)
    )


def images(count: int = 2, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, height, width), dtype=np.float32)


class Altered:
    """A session whose outputs pass through a function."""

    def __init__(self, session: Session, change: object) -> None:
        self.manifest, self.artifact_id = session.manifest, session.artifact_id
        self.session = session
        self.change = change

    def run(self, images: np.ndarray) -> Detections:
        return self.change(self.session.run(images))  # type: ignore[operator]
