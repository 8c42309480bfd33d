"""Architectures, spaces, presets and campaigns: arithmetic and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.paper.published import published_table
from rfdetr_repro.spec.arch import Arch, SearchSpace, parse_shape
from rfdetr_repro.spec.campaign import COCO, EMBEDDED, campaign, from_scratch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import (
    PAPER_SPACE,
    PICO,
    PICO_SPACE,
    PICO_TRAIN,
    PICO_WEIGHTS,
    PRESETS,
    preset,
)
from rfdetr_repro.spec.protocol import Protocol

KNOBS = ("resolution", "patch", "windows", "decoder_layers", "queries")


def test_the_papers_space_has_6468_grid_points_of_which_some_are_one_architecture() -> None:
    """Counted here by the rounding rule of Tables 7 and 8 alone: 10 of 231 backbones coincide with
    another.
    """
    axes = (PAPER_SPACE.resolutions, PAPER_SPACE.patches, PAPER_SPACE.windows)
    sizes = [
        (res // (patch * win), patch, win)
        for res in axes[0]
        for patch in axes[1]
        for win in axes[2]
        if res >= patch * win
    ]
    assert (len(sizes), len(set(sizes))) == (231, 221)
    assert (
        PAPER_SPACE.grid_points() == 6468 == 231 * 7 * 4 and len(PAPER_SPACE) == 6188 == 221 * 7 * 4
    )
    archs = list(PAPER_SPACE)
    assert (
        len(archs)
        == len({(arch.backbone, arch.decoder_layers, arch.queries) for arch in archs})
        == 6188
    )
    assert len(PAPER_SPACE.training_archs()) == len({arch.backbone for arch in archs}) == 221
    told = (
        "6468 grid points are 6188 architectures: of 231 backbones 10 round to the size of "
        "another, 221 are distinct"
    )
    assert PAPER_SPACE.counted() == f"{told}; each is counted once"


def test_a_space_whose_sizes_differ_is_its_grid() -> None:
    archs = list(PICO_SPACE)
    assert (
        len(archs) == len(set(archs)) == len(PICO_SPACE) == PICO_SPACE.grid_points() == 162
        and not PICO_SPACE.counted()
    )
    assert archs == sorted(archs) and archs[0].key == "r96-p12-w1-d0-q10"
    for changes in (
        {"queries": (10, 10, 15)},
        {"resolutions": (96, 96)},
        {"decoder_layers": ()},
        {"patches": (0,)},
    ):
        with pytest.raises(InputError, match="not a list of different whole numbers"):
            replace(PICO_SPACE, **changes)
    assert len(PICO_SPACE) >= 100
    assert all(len({getattr(arch, knob) for arch in PICO_SPACE}) > 1 for knob in KNOBS)


@pytest.mark.parametrize(
    ("resolution", "patch", "windows", "side"),
    [(704, 20, 1, 700), (896, 20, 2, 880), (512, 12, 2, 504), (384, 16, 2, 384)],
)
def test_side_is_rounded_down(resolution: int, patch: int, windows: int, side: int) -> None:
    arch = Arch(resolution, patch, windows, 2, 300)
    assert arch.input_hw[0] == side and arch.grid_hw[0] == side // patch
    assert (f"{resolution} -> {side} px" in arch.rounding) == (side != resolution)


def test_key_round_trip_and_refusals() -> None:
    arch = Arch(384, 16, 2, 2, 300)
    assert arch.key == "r384-p16-w2-d2-q300" and Arch.parse(arch.key) == arch
    with pytest.raises(InputError, match="not an architecture"):
        Arch.parse("nano-ish")
    with pytest.raises(InputError, match="smaller than patch x windows"):
        Arch(32, 20, 2, 1, 10)
    with pytest.raises(InputError, match="below its minimum"):
        Arch(64, 16, 1, -1, 10)


def test_rectangles() -> None:
    arch = Arch.parse("r384x640-p16-w2-d2-q300")
    assert (arch.input_hw, arch.grid_hw, arch.tokens) == ((384, 640), (24, 40), 960) and Arch.parse(
        arch.key
    ) == arch
    assert arch.backbone != replace(arch, width=608).backbone and arch.rounding == ""
    assert (
        Arch(400, 16, 2, 2, 300, 650).input_hw == (384, 640)
        and "400x650 -> 384x640 px" in Arch(400, 16, 2, 2, 300, 650).rounding
    )
    square = Arch(384, 16, 2, 2, 300)
    # one spelling of a square
    assert square.with_input(384, 640) == arch and arch.with_input(384, 384) == square
    with pytest.raises(
        InputError, match="384x650 px is not divisible by patch x windows = 32.*384x640"
    ):
        square.with_input(384, 650)
    with pytest.raises(InputError, match="32x32"):
        square.with_input(1, 0)
    with pytest.raises(InputError, match="below its minimum"):
        replace(square, width=-32)
    with pytest.raises(InputError, match="smaller than patch x windows"):
        replace(square, width=31)
    for wrong in ({"width": 640.0}, {"queries": True}, {"resolution": 10**9}):
        with pytest.raises(InputError, match="not a whole number|larger than 16384 px"):
            replace(square, **wrong)
    with pytest.raises(InputError, match="a width of 0"):
        Arch.parse("r384x0-p16-w2-d2-q300")
    for table in ((24, 24, 30), (24,), (0, 3)):
        with pytest.raises(InputError, match="is neither a side nor .height, width."):
            ModelConfig(pos_grid=table)
    assert square.knobs() == {
        "resolution": 384,
        "patch": 16,
        "windows": 2,
        "decoder_layers": 2,
        "queries": 300,
    }
    assert arch.knobs()["width"] == 640
    assert parse_shape("384x640") == (384, 640)
    with pytest.raises(InputError, match="not a shape"):
        parse_shape("384,640")


def test_space_without_a_legal_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="no legal configuration"):
        SearchSpace((32,), (20,), (2,), (1,), (10,)).check()
    assert {arch.windows for arch in SearchSpace((32,), (20,), (1, 2), (1,), (10,))} == {1}


@pytest.mark.parametrize("table", ["7", "8"])
def test_presets_are_the_published_configurations(table: str) -> None:
    names = {
        "N": "nano",
        "S": "small",
        "M": "medium",
        "L": "large",
        "XL": "xlarge",
        "2XL": "2xlarge",
    }
    published = published_table(table)
    for cells in published.rows:
        if cells["size"] in names:
            arch = PRESETS[("seg-" if table == "8" else "") + names[cells["size"]]].arch
            assert arch.input_hw[0] == int(cells["resolution"]) and arch.patch == int(
                cells["patch_size"]
            )
            assert arch.windows == int(cells["windows"]) and arch.queries == int(cells["queries"])
            assert arch.decoder_layers == int(cells["decoder_layers"])


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match="choose one of nano"):
        preset("huge")
    with pytest.raises(InputError, match="not divisible"):
        ModelConfig(vit_dim=100, vit_heads=3)
    with pytest.raises(InputError, match="unknown protocol mode"):
        Protocol(mode="fast")


def test_campaign_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'title = "mine"\nengines = 8\n[train]\nsteps = 5\nlr = 1\n[space]\nresolutions = [64]\n'
    )
    read = campaign(str(file))
    assert (read.name, read.title, read.engines, read.train.steps, read.train.lr) == (
        "mine",
        "mine",
        8,
        5,
        1.0,
    )
    assert read.space.resolutions == (64,) and read.space.patches == PICO_SPACE.patches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstepz = 5", "unknown keys"),
        ("candidats = 3", "did you mean candidates"),
        ("engines = 'many'", "is not int"),
        ("most_engines = 'many'", "is not int"),
        ("engines =", "not TOML"),
        ('base = "x"', "unknown base"),
    ],
)
def test_bad_campaign_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        campaign(str(file))
    with pytest.raises(InputError, match="unknown campaign"):
        campaign("nothing")


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "campaigns").glob("*.toml")),
    ids=lambda path: path.stem,
)
def test_every_campaign_file_is_read_and_can_be_trained(path: Path) -> None:
    found = campaign(str(path))
    assert found.name and found.title and found.train.steps > 0
    archs = found.space.training_archs()
    assert max(arch.decoder_layers for arch in archs) <= found.preset.model.decoder_layers


def test_from_scratch_takes_the_recipe_for_it(tmp_path: Path) -> None:
    """The embedded campaign starts from the package's weights; a file's [train] changes both of its
    recipes.
    """
    assert EMBEDDED.weights == PICO_WEIGHTS and EMBEDDED.train.steps < PICO_TRAIN.steps
    plain = from_scratch(EMBEDDED)
    assert plain.weights is None and plain.train == PICO_TRAIN
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nbatch_size = 4\n")
    mine = campaign(str(file))
    assert mine.train == replace(EMBEDDED.train, batch_size=4) and from_scratch(
        mine
    ).train == replace(PICO_TRAIN, batch_size=4)
    assert from_scratch(COCO).train == COCO.train and from_scratch(COCO).weights is None


def test_the_weights_of_the_package_fit_the_campaign() -> None:
    assert PICO_WEIGHTS.stat().st_size <= 12e6
    detector, card, _ = load_supernet(PICO_WEIGHTS)
    assert card.config == PICO.model and card.space == PICO_SPACE and "seed" in card.notes
    assert all(parameter.isfinite().all() for parameter in detector.parameters())
