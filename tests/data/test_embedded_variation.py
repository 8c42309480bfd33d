"""Objects of other shapes and colours in the train split: the truth stays exact, the other splits
and data sets without variation stay as they are. The hue is checked against the standard library.
"""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rfdetr_repro.data.embedded import variation
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, compose, write_embedded
from rfdetr_repro.spec.errors import InputError

SMALL = EmbeddedConfig(image_side=96, train_images=3, val_images=2, test_images=2, seed=3)
VARIED = replace(SMALL, varied=1.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_are_never_varied(split: str) -> None:
    plain, varied = (compose(config, split, 0) for config in (SMALL, VARIED))
    assert np.array_equal(plain.image, varied.image)
    assert np.array_equal(plain.masks, varied.masks)


def test_varied_scenes_differ_and_repeat() -> None:
    first = compose(VARIED, "train", 1)
    again = compose(VARIED, "train", 1)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.image, compose(SMALL, "train", 1).image)
    assert first.masks.any(axis=(1, 2)).all() and not (first.masks.sum(axis=0) > 1).any()
    assert len(first.masks) == len(first.category_ids)


def test_a_folder_states_the_share_only_if_there_is_one(tmp_path: Path) -> None:
    for name, config in (("plain", SMALL), ("varied", VARIED)):
        write_embedded(tmp_path / name, config, workers=1, splits=("train",))
        text = (tmp_path / name / "annotations" / "instances_train.json").read_text()
        assert ("varied" in json.dumps(json.loads(text)["info"])) == (name == "varied")
    with pytest.raises(InputError):
        write_embedded(tmp_path / "plain", VARIED, workers=1, splits=("train",))


def test_the_matrices_are_those_of_yiq(rng: np.random.Generator) -> None:
    for rgb in rng.random((20, 3)):
        ours = variation.TO_YIQ @ rgb
        assert ours == pytest.approx(colorsys.rgb_to_yiq(*rgb), abs=0.006)
        assert variation.FROM_YIQ @ ours == pytest.approx(rgb, abs=1e-5)


def test_colours_change_and_keep_their_range(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = rng.random((12, 17, 3)).astype(np.float32)
    changed = variation.recoloured(rgb, rng)
    assert changed.shape == rgb.shape and changed.dtype == np.float32
    assert 0 <= changed.min() and changed.max() <= 1
    # without light, stains and gamma, what is left is a turn of the hue: the luma stays
    for name, value in (("GAMMA", 1.0), ("LIGHT", 0.0), ("STAINS", 0.0), ("GREY", 0.0)):
        monkeypatch.setattr(variation, name, value)
    monkeypatch.setattr(variation, "SATURATION", (0.2, 0.2))
    pale = 0.3 + 0.4 * rgb
    turned = variation.recoloured(pale, rng)
    luma = np.array([0.299, 0.587, 0.114])
    assert turned @ luma == pytest.approx(pale @ luma, abs=2e-3)
    assert np.ptp(turned, axis=-1).mean() < np.ptp(pale, axis=-1).mean()


def test_shapes_change_and_keep_what_is_seen(rng: np.random.Generator) -> None:
    sprite = np.zeros((40, 60, 4), dtype=np.uint8)
    sprite[:] = (200, 100, 50, 255)
    for _ in range(20):
        moved = variation.reshaped(sprite, rng)
        height, width = moved.shape[:2]
        ratio = (width / height) / (60 / 40)
        assert 1 / 1.4 < ratio < 1.4 and moved.dtype == np.uint8
        opaque = moved[..., 3] == 255
        assert opaque.mean() > 0.5
        assert np.abs(moved[opaque][:, :3].astype(int) - (200, 100, 50)).max() <= 2
