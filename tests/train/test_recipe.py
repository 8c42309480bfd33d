"""Which architectures a step trains, what makes two runs one, and settings given by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from tiny import SPACE, TINY, TRAIN

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET
from rfdetr_repro.spec.train_config import TrainConfig, with_settings
from rfdetr_repro.train.recipe import Recipe, extremes


def test_sandwich_trains_both_extremes_and_a_random_architecture() -> None:
    recipe = Recipe(TINY, replace(TRAIN, sampling="sandwich", base_share=0.0), SPACE).check()
    steps = [recipe.archs_of_step(step) for step in range(200)]
    costs = {arch: total_flops(TINY.model, arch, "eager") for arch in SPACE.training_archs()}
    largest, smallest = steps[0][:2]
    assert {step[:2] for step in steps} == {(largest, smallest)}
    assert costs[largest] == max(costs.values()) and costs[smallest] == min(costs.values())
    assert len({step[2] for step in steps}) > len(costs) / 2
    uniform = Recipe(TINY, replace(TRAIN, base_share=0.0), SPACE)
    assert [step[2:] for step in steps] == [uniform.archs_of_step(step) for step in range(200)]


def test_a_step_makes_no_architecture_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the paper's space draw from one list: its grid is looked at once, not at every
    micro-batch.
    """
    recipe = Recipe(PAPER_SUPERNET, replace(TRAIN, base_share=0.0), PAPER_SPACE)
    made: list[int] = []
    recipe.archs_of_step(0)
    plain = Arch.__post_init__

    def counted(self: Arch) -> None:
        made.append(1)
        plain(self)

    monkeypatch.setattr(Arch, "__post_init__", counted)
    for step in range(50):
        recipe.archs_of_step(step)
    assert not made


def test_every_backbone_is_drawn_as_often_as_another() -> None:
    """Resolutions 40 and 44 are both 32 px of patch 16: one backbone, not drawn twice as often.
    Chi-squared with 2 degrees of freedom stays below 13.8 in 999 of 1,000 seeds; the draws are
    those of one seed.
    """
    space = replace(SPACE, resolutions=(40, 44, 48, 64), patches=(16,), windows=(1,))
    recipe = Recipe(TINY, replace(TRAIN, base_share=0.0), space)
    drawn = [recipe.archs_of_step(step)[0].input_hw for step in range(900)]
    counts = [drawn.count((side, side)) for side in (32, 48, 64)]
    assert sum(counts) == 900 and sum((count - 300) ** 2 / 300 for count in counts) < 13.8


def test_extremes_of_the_paper_space() -> None:
    largest, smallest = extremes(PAPER_SUPERNET.model, PAPER_SPACE)
    assert largest == Arch(960, 8, 1, 6, 300)
    assert (smallest.resolution, smallest.patch, smallest.decoder_layers, smallest.queries) == (
        320,
        32,
        6,
        300,
    )


def test_multi_scale_sides_are_whole_units_around_the_own_one() -> None:
    recipe = Recipe(TINY, replace(TRAIN, multi_scale=True)).check()
    sides = {recipe.archs_of_step(step)[0].input_hw for step in range(400)}
    # 4 units of 16 px, 5 to either side, at least 2
    assert sides == {(16 * units, 16 * units) for units in range(2, 10)}
    assert recipe.archs_of_step(7) == recipe.archs_of_step(7)
    wide = Recipe(
        replace(TINY, arch=TINY.arch.with_input(64, 128)), replace(TRAIN, multi_scale=True)
    )
    assert {
        w - h for h, w in (wide.archs_of_step(step)[0].input_hw for step in range(50)) if h > 32
    } == {64}


def test_contradictions_are_refused() -> None:
    with pytest.raises(InputError, match="sandwich rule needs a search space"):
        Recipe(TINY, replace(TRAIN, sampling="sandwich")).check()
    with pytest.raises(InputError, match="draws its own resolutions"):
        Recipe(TINY, replace(TRAIN, multi_scale=True), SPACE).check()
    with pytest.raises(
        InputError, match="stores 1 layers and 10 queries, the space needs 2 and 10"
    ):
        Recipe(replace(TINY, model=replace(TINY.model, decoder_layers=1)), TRAIN, SPACE).check()
    for changes in ({"multi_scale": True}, {"checkpoint_activations": True}):
        with pytest.raises(InputError, match="compile=true"):
            Recipe(TINY, replace(TRAIN, compile=True, **changes)).check()
    with pytest.raises(InputError, match="compile=true needs one size"):
        Recipe(TINY, replace(TRAIN, compile=True), SPACE).check()
    with pytest.raises(InputError, match="unknown sampling"):
        replace(TRAIN, sampling="fair")
    with pytest.raises(InputError, match="patience 3 without evaluations"):
        replace(TRAIN, patience=3)


def test_later_settings_at_their_defaults_do_not_change_what_a_run_is() -> None:
    first = {
        "sampling",
        "multi_scale",
        "float16",
        "checkpoint_activations",
        "patience",
        "freeze",
        "precision",
        "compile",
        "draw_heads",
        "cooldown_form",
        "resize_on",
        "channels_last",
        "cuda_graph",
    }
    assert set(asdict(TRAIN)) - set(TRAIN.settings()) == first
    identity = json.loads(Recipe(TINY, TRAIN, SPACE).identity("data"))
    assert not first & set(identity["train"])
    assert Recipe(TINY, replace(TRAIN, sampling="sandwich"), SPACE).identity("data") != Recipe(
        TINY, TRAIN, SPACE
    ).identity("data")


def test_settings_by_name() -> None:
    config = with_settings(
        TrainConfig(), ["lr=2e-4", "multi_scale=true", "accumulate=4", "sampling=sandwich"]
    )
    assert (config.lr, config.multi_scale, config.accumulate, config.sampling) == (
        2e-4,
        True,
        4,
        "sandwich",
    )
    for wrong in ("lr", "rate=1", "lr=fast", "multi_scale=perhaps", "steps=1.5"):
        with pytest.raises(InputError, match=wrong.split("=")[0]):
            with_settings(TrainConfig(), [wrong])
