"""The additive latency model: exact on an additive machine, honest on one that is not."""

from __future__ import annotations

import numpy as np
import pytest
from samples_latency_model import CONFIG, additive_ms

from rfdetr_repro.search.engines import Fit
from rfdetr_repro.search.latency_model import LatencyModel, engine_order, features, heldout_error
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO, PICO_SPACE


def noisy(archs: list[Arch], spread: float, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, spread, len(archs))
    return [additive_ms(arch) * float(np.exp(n)) for arch, n in zip(archs, noise, strict=True)]


def fitted(spread: float, engines: int = 30) -> tuple[LatencyModel, list[Arch]]:
    fit = engine_order(PICO_SPACE)[:engines]
    return LatencyModel.fit(fit, noisy(fit, spread), CONFIG), fit


def test_an_additive_machine_is_predicted() -> None:
    model, fit = fitted(spread=0.0)
    others = [arch for arch in PICO_SPACE if arch not in fit]
    error = model.error(others, [additive_ms(arch) for arch in others])
    assert error.median < 0.005 and error.maximum < 0.03


def test_noise_is_averaged_out() -> None:
    model, fit = fitted(spread=0.02)
    others = [arch for arch in PICO_SPACE if arch not in fit]
    error = model.error(others, [additive_ms(arch) for arch in others])
    assert error.median < 0.02 and error.maximum < 0.08


def test_a_machine_that_is_not_additive_shows_in_the_heldout_error() -> None:
    order = engine_order(PICO_SPACE)
    fit = order[:24]
    heldout = order[24:30]

    def stepped(arch: Arch) -> float:  # some backbones miss a fast path, in no order of their work
        return additive_ms(arch) * (
            2.0 if (arch.resolution // 32 + arch.patch // 4 + arch.windows) % 2 else 1.0
        )

    wrong = LatencyModel.fit(fit, [stepped(arch) for arch in fit], CONFIG).error(
        heldout, [stepped(arch) for arch in heldout]
    )
    right = LatencyModel.fit(fit, noisy(fit, 0.0), CONFIG).error(heldout, noisy(heldout, 0.0))
    assert wrong.median > 0.05 > 10 * right.median


def test_cross_validation_agrees_with_fresh_engines() -> None:
    _, fit = fitted(spread=0.02)
    within = heldout_error(fit, noisy(fit, 0.02), CONFIG)
    assert 0.002 < within.median < 0.08 and within.maximum >= within.median


def test_more_work_never_costs_less() -> None:
    model, _ = fitted(spread=0.3)
    assert min(model.coefficients.values()) >= 0
    base = Arch(128, 16, 1, 1, 15)
    for more in (Arch(160, 16, 1, 1, 15), Arch(128, 16, 1, 2, 15), Arch(128, 16, 1, 1, 25)):
        assert model.predict(more) >= model.predict(base)


def test_parts_add_up() -> None:
    model, fit = fitted(spread=0.02)
    for arch in fit[:5]:
        assert sum(model.parts(arch).values()) == pytest.approx(model.predict(arch))
    assert (
        model.parts(Arch(128, 16, 1, 2, 25))["decoder"]
        > model.parts(Arch(128, 16, 1, 0, 25))["decoder"]
    )


def test_prediction_is_marked_as_modelled() -> None:
    model, fit = fitted(spread=0.02)
    latency = model.latency(fit[0], heldout_error(fit, noisy(fit, 0.02), CONFIG))
    assert (
        latency.method == "modelled" and latency.heldout_error > 0 and latency.num_samples is None
    )


def test_json_round_trip() -> None:
    model, fit = fitted(spread=0.02)
    again = LatencyModel.from_json(model.to_json())
    assert again == model and again.predict(fit[3]) == model.predict(fit[3])
    for text in ("{", "[]", "{}", model.to_json().replace("tokens", "atoms")):
        with pytest.raises(InputError, match="not a latency model"):
            LatencyModel.from_json(text)


def test_without_masks_nothing_is_paid_for_them() -> None:
    detection = PICO.model.__class__(**{**PICO.model.__dict__, "masks": False})
    work = features(Arch(128, 16, 1, 2, 25), detection)
    assert {name for name, amount in work.items() if amount == 0} >= {
        "mask_pixels",
        "mask_block_pixels",
        "mask_products",
    }


@pytest.mark.parametrize(
    ("count", "latency_ms"),
    [
        (3, [1.0] * 3),
        (5, [1.0] * 4),
        (5, [1.0, 1.0, 0.0, 1.0, 1.0]),
        (5, [1.0, 1.0, float("nan"), 1.0, 1.0]),
    ],
)
def test_impossible_measurements(count: int, latency_ms: list[float]) -> None:
    with pytest.raises(InputError):
        LatencyModel.fit(list(PICO_SPACE)[:count], latency_ms, CONFIG)


@pytest.mark.parametrize("seed", range(5))
def test_engines_are_spread_out(seed: int) -> None:
    order = engine_order(PICO_SPACE, seed)
    assert (
        order == engine_order(PICO_SPACE, seed)
        and len(order) == len(PICO_SPACE)
        and set(order) == set(PICO_SPACE)
    )
    assert {arch.backbone for arch in order[:18]} == {arch.backbone for arch in PICO_SPACE}
    assert {(arch.decoder_layers, arch.queries) for arch in order[:18]} == {
        (d, q) for d in (0, 1, 2) for q in (10, 15, 25)
    }


def test_large_spaces_get_a_sample_of_their_backbones() -> None:
    order = engine_order(PAPER_SPACE)
    assert (
        set(order) == set(PAPER_SPACE)
        and len(order) == len(PAPER_SPACE)
        and len({arch.backbone for arch in order[:60]}) == 60
    )
    assert {arch.patch for arch in order[:60]} >= {8, 32} and {
        arch.windows for arch in order[:60]
    } == {1, 2, 4}


@pytest.mark.parametrize(
    ("engines", "most", "sizes"),
    [
        (18, None, [18, 27, 36]),
        (18, 0, [18]),
        (8, 40, [8, 12, 18, 27, 40]),
        (500, None, [162]),
        (18, 20, [18, 20]),
    ],
)
def test_rounds_of_measuring(engines: int, most: int | None, sizes: list[int]) -> None:
    assert Fit(engines, most).sizes(162) == sizes
    with pytest.raises(InputError, match="5 engines"):
        Fit(5).sizes(162)
