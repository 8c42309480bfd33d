"""The check of an artifact against PyTorch: order does not matter, values and labels do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from samples_export import ARCH, Altered, images, tiny_artifact, tiny_detector

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.runtime.session import Detections, OrtSession
from rfdetr_repro.spec.errors import StatedFailure


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, OrtSession]:
    detector = tiny_detector()
    return detector.slice(ARCH), OrtSession(
        tiny_artifact(tmp_path_factory.mktemp("artifact"), detector), threads=1
    )


def take(found: Detections, rows: np.ndarray) -> Detections:
    return Detections(*(None if part is None else part[:, rows] for part in found))


def test_order_does_not_matter(pair: tuple[Detector, OrtSession]) -> None:
    subnet, session = pair
    reversed_rows = Altered(session, lambda found: take(found, np.arange(ARCH.queries)[::-1]))
    agreement = check_against(subnet, reversed_rows, images())
    assert agreement.matched == 1.0 and agreement.box < 1e-4 and agreement.mask_logit is not None


WRONG: dict[str, Callable[[Detections], Detections]] = {
    "labels": lambda found: found._replace(labels=(found.labels + 1) % 3),
    "boxes moved a little": lambda found: found._replace(boxes_xyxy=found.boxes_xyxy + 0.005),
    "boxes moved far": lambda found: found._replace(boxes_xyxy=found.boxes_xyxy + 0.5),
    "scores": lambda found: found._replace(scores=found.scores + 0.005),
    "masks": lambda found: found._replace(masks=found.masks + 0.5 * np.abs(found.masks).max()),
    "one detection lost": lambda found: take(found, np.array([0, 0, 2, 3, 4, 5, 6, 7])),
    "not finite": lambda found: found._replace(boxes_xyxy=np.full_like(found.boxes_xyxy, np.nan)),
}


@pytest.mark.parametrize("name", WRONG)
def test_differences_are_refused(pair: tuple[Detector, OrtSession], name: str) -> None:
    subnet, session = pair
    with pytest.raises(StatedFailure, match="disagrees with PyTorch"):
        check_against(subnet, Altered(session, WRONG[name]), images())


def test_other_weights_are_refused(pair: tuple[Detector, OrtSession]) -> None:
    _subnet, session = pair
    other = tiny_detector().slice(ARCH)
    with torch.no_grad():
        other.class_embed.bias.add_(0.05)
    with pytest.raises(StatedFailure):
        check_against(other, session, images())
    loose = Tolerance(score=0.1)
    assert check_against(other, session, images(), loose).score > 1e-3
