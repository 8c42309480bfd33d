"""A campaign file that names a backbone, and the figure of the architecture with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from samples_backbones import FIELDS, small

from rfdetr_repro.plots.architecture import architecture_height_in, draw_architecture
from rfdetr_repro.search.latency_model import features
from rfdetr_repro.spec.backbones import name_of
from rfdetr_repro.spec.campaign import CAMPAIGNS, from_toml
from rfdetr_repro.spec.departures import departures
from rfdetr_repro.spec.errors import InputError


def written(folder: Path, text: str) -> Path:
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


def test_a_campaign_names_its_backbone_and_starts_from_random_weights(tmp_path: Path) -> None:
    base = CAMPAIGNS["embedded"]
    found = from_toml(written(tmp_path, 'backbone = "convnext-pico"'))
    assert name_of(found.preset.model) == "convnext-pico" and found.weights is None
    assert found.train == base.scratch and found.space.windows == (1,)
    told = departures(found)
    assert "backbone convnext (paper: dinov2)" in told
    assert any("windows 1, 2 become 1" in sentence for sentence in told)
    kept = from_toml(written(tmp_path, 'backbone = "dinov3-pico"\nweights = "x.safetensors"'))
    assert kept.weights == Path("x.safetensors") and kept.space == base.space
    assert from_toml(written(tmp_path, "engines = 20")).preset == base.preset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backbone = "dinov3-pica"', "did you mean dinov3-pico"),
        ("backbone = 3", "backbone = 3 is not a text"),
        ('size = "base"\nbackbone = "convnext-tiny"', "no patches of 14 px"),
    ],
)
def test_backbones_that_cannot_be_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        from_toml(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", FIELDS)
def test_the_figure_names_backbone_and_positions(kind: str) -> None:
    row = small(kind)
    figure = Figure(figsize=(7, architecture_height_in(row.model, row.arch)))
    draw_architecture(figure, row.model, row.arch, kind)
    words = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    words = " ".join(words.split())
    expected = {
        "dinov2": ("Backbone: ViT, 4 blocks", "table of 8 x 8"),
        "dinov2-registers": ("DINOv2 with 3 registers, 4 blocks", "table of 8 x 8"),
        "dinov3": ("DINOv3 ViT with 2 registers, 4 blocks", "rotary"),
        "dinov3-gated": ("DINOv3 ViT with 2 registers, 4 blocks", "rotary"),
        "convnext": ("ConvNeXt, 4 stages", "no positions"),
    }[kind]
    assert all(part in words for part in expected), words


def test_work_of_a_backbone_follows_its_kind() -> None:
    """A backbone without attention has no pairs; registers are tokens of every window."""
    rows = {kind: small(kind) for kind in FIELDS}
    work = {kind: features(row.arch, row.model) for kind, row in rows.items()}
    assert work["convnext"]["attention_pairs"] == 0 < work["dinov2"]["attention_pairs"]
    assert work["dinov2-registers"]["tokens"] == work["dinov2"]["tokens"] + 3
