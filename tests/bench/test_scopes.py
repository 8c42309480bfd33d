"""The three scopes contain what they say."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples_bench import COUNT, FakeSession, fake_artifact
from samples_coco import random_document, write_folder

from rfdetr_repro.bench.scopes import (
    PICTURE_HW,
    detect_bytes,
    example_input,
    objects,
    picture_bytes,
    timed_call,
)
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.mask_logits import bitmaps
from rfdetr_repro.runtime.session import Detections
from rfdetr_repro.spec.errors import InputError


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return FakeSession(fake_artifact(tmp_path))


def test_engine_binds_once_and_only_launches(session: FakeSession) -> None:
    run = timed_call(session, "engine", None)
    assert session.log == ["bind"]
    run(), run()
    assert session.log == ["bind", "launch", "launch"]


def test_device_copies_every_time(session: FakeSession) -> None:
    run = timed_call(session, "device", None)
    run(), run()
    assert session.log == ["bind", "launch", "outputs"] * 2


def test_host_goes_from_bytes_to_objects(session: FakeSession) -> None:
    found = timed_call(session, "host", None)()
    height, width = PICTURE_HW
    assert len(found) == COUNT and found[0].score == 0.5 and found[0].label == 0  # type: ignore[arg-type, index]
    assert found[0].box_xyxy == (0.0, 0.0, width / 2, float(height))  # type: ignore[index]


def test_masks_become_bits_at_the_pictures_size() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 3, 6, 8)).astype(np.float32)
    boxes = np.zeros((1, 3, 4), np.float32)
    found = objects(
        Detections(np.ones((1, 3), np.float32), np.zeros((1, 3), np.int64), boxes, logits), 24, 32
    )
    assert [
        int(np.unpackbits(d.mask, bitorder="little")[: 24 * 32].sum()) for d in found
    ] == bitmaps(logits[0], 24, 32).sum((1, 2)).tolist()


def test_the_picture_is_the_data_sets_first_file(tmp_path: Path, session: FakeSession) -> None:
    split = read_split(write_folder(tmp_path, random_document(0), "val"), "val")
    assert picture_bytes(split) == split.images[0].path.read_bytes()
    assert example_input(session, split).shape == (1, 3, 8, 16)


def test_the_drawn_picture_is_always_the_same_and_like_a_photo() -> None:
    first = picture_bytes(None)
    assert first == picture_bytes(None)
    assert Image.open(io.BytesIO(first)).size == PICTURE_HW[::-1] and 5_000 < len(first) < 100_000


def test_a_broken_picture_is_refused(session: FakeSession) -> None:
    with pytest.raises(InputError, match="cannot decode"):
        detect_bytes(session, b"nonsense")
