"""Model settings that follow the data: each rule against values worked out by hand, and bounds that
hold for any data.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rfdetr_repro.spec.presets import PICO, PICO_SPACE
from rfdetr_repro.spec.sizing import (
    LEAST_SIDE,
    MOST_SIDE,
    QUERY_COUNTS,
    Scene,
    Sizing,
    size_for,
    too_many_objects,
)

# 13 cells in the median picture of 640 x 480 px; platelets are 7.3 % of the picture's side
BLOOD = Scene(260, 13.0, 19.0, 28, 0.187, "Platelets", 0.073, 554.0)
# nuclei of a twentieth of pictures of 256 px, up to 369 of them
NUCLEI = Scene(140, 23.5, 89.4, 369, 0.052, "nucleus", 0.052, 256.0)


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        # 16 / 0.073 = 219 -> 224; 2.5 x 13 = 33 -> 50; 224 x 0.187 = 42 px, 5 cells of 8 px
        (BLOOD, Sizing(224, 50, 0.19, 8)),
        # 16 / 0.052 = 308 -> 320; 1.1 x 89.4 = 99 -> 100; 320 x 0.052 = 17 px, 4 cells of 4 px
        (NUCLEI, Sizing(320, 100, 0.05, 4)),
        # the same in pictures of 200 px: at most 1.25 x 200 = 250 -> 224 px; 12 px, 6 cells of 2 px
        (replace(NUCLEI, image_side=200.0), Sizing(224, 100, 0.05, 2)),
        # one large object: the least of everything
        (Scene(50, 1.0, 2.0, 3, 0.6, "cow", 0.6, 900.0), Sizing(128, 25, 0.3, 8)),
        # specks: the most of everything
        (Scene(9, 400.0, 900.0, 2000, 0.004, "dust", 0.004, 4000.0), Sizing(320, 300, 0.02, 2)),
    ],
)
def test_rules(scene: Scene, expected: Sizing) -> None:
    assert replace(size_for(scene, 16), reasons=()) == expected


def test_a_given_side_decides_the_mask_map() -> None:
    # 96 x 0.187 = 18 px, 4 cells of 4 px
    found = size_for(BLOOD, 16, 96)
    assert replace(found, reasons=()) == Sizing(96, 50, 0.19, 4)


def test_bounds_hold_for_any_scene() -> None:
    draw = random.Random(5)
    for _ in range(2000):
        median = draw.choice([0.0, 1.0, draw.uniform(0, 500)])
        many = median + draw.uniform(0, 500)
        typical = 10 ** draw.uniform(-4, 0)
        side = 10 ** draw.uniform(0.5, 4.3)
        scene = Scene(9, median, many, int(many) + 1, typical, "a", typical, side)
        found = size_for(scene, 16)
        assert LEAST_SIDE <= found.resolution <= MOST_SIDE and found.resolution % 32 == 0
        assert found.resolution <= max(LEAST_SIDE, 1.25 * side)
        assert found.queries in QUERY_COUNTS
        assert found.queries >= min(QUERY_COUNTS[-1], many)
        model = found.preset(PICO).model  # checks its own ranges
        assert model.queries == found.queries
        found.space(PICO_SPACE, PICO.arch).check()
        assert Sizing.from_json(found.as_json()) == found


def test_the_space_scales_with_the_base() -> None:
    space = Sizing(256, 50, 0.1, 8).space(PICO_SPACE, PICO.arch)
    assert space.resolutions == (192, 256, 320) and space.queries == (20, 30, 50)
    assert (space.patches, space.windows) == (PICO_SPACE.patches, PICO_SPACE.windows)
    unchanged = Sizing(128, 25, 0.2, 8).space(PICO_SPACE, PICO.arch)
    assert unchanged == PICO_SPACE
    assert Sizing().space(PICO_SPACE, PICO.arch) == PICO_SPACE and Sizing().preset(PICO) == PICO
    only_queries = Sizing(queries=100)
    assert only_queries.space(PICO_SPACE, PICO.arch) == replace(PICO_SPACE, queries=(40, 60, 100))
    assert only_queries.preset(PICO).model == replace(PICO.model, queries=100)


def test_a_warning_states_how_many_pictures_are_concerned() -> None:
    assert too_many_objects(NUCLEI, 0, 100) == ""
    warning = too_many_objects(NUCLEI, 12, 100)
    assert "12 of 140 training images" in warning and "at most 369" in warning
