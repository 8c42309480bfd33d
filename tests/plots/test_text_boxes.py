"""No figure clips a text or writes one over another, with long names and many points too."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from samples_records import measured
from samples_run import protocol_record, run_records, search_record, training_rows, write_run
from text_boxes import clipped, overlapping

from rfdetr_repro.plots.figures import Plan, Sources, plan_of
from rfdetr_repro.plots.layout import pushed_apart, text_width_in, wrapped
from rfdetr_repro.plots.space import draw_space, space_height_in, thinned
from rfdetr_repro.plots.style import drawn
from rfdetr_repro.plots.training import draw_training
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.presets import PRESETS

RECORDS = run_records()
LONG = "a data set with a name of many words that somebody chose before thinking of figures"


def faults(plan: Plan) -> list[object]:
    figure = drawn(plan.draw, plan.height_in)
    return [*clipped(figure), *overlapping(figure)]


def long_names() -> list:
    return [
        replace(
            record,
            data=replace(record.data, name=LONG),
            machine=replace(record.machine, cpu="Example(R) Processor(TM) " * 4),
            model=replace(record.model, name=LONG),
        )
        for record in RECORDS
    ]


def many_points() -> list:
    """A space with many values of each knob, and a measured file for every fiftieth of it."""
    space = SearchSpace(
        tuple(range(96, 512, 32)), (8, 12, 16, 20), (1, 2), tuple(range(7)), (10, 50, 100, 150, 200)
    )
    archs = random.Random(0).sample(list(space), 1500)
    found = [search_record(arch) for arch in archs]
    return found + [
        protocol_record(arch, split) for arch in archs[::50] for split in ("val", "test")
    ]


def several_searches() -> list:
    return [
        *RECORDS,
        *(
            replace(record, model=replace(record.model, checkpoint_sha256=f"{n:064d}"))
            for n in range(4)
            for record in RECORDS[:30]
        ),
    ]


SETS = {
    "usual": lambda: RECORDS,
    "long names": long_names,
    "many points": many_points,
    "several searches": several_searches,
    "one layer": lambda: [r for r in RECORDS if r.model.arch.decoder_layers == 2],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("figure", ["4", "5", "pareto", "sensitivity"])
def test_figures_of_records_keep_their_texts_apart_and_whole(figure, name):
    assert not faults(plan_of(figure, Sources(SETS[name]())))


@pytest.mark.parametrize("number", ["1", "7"])
@pytest.mark.parametrize("records", [[], [measured("N", 0.479, 2.4), measured("S", 0.53, 3.6)]])
def test_published_figures_keep_their_texts_apart_and_whole(number, records):
    assert not faults(plan_of(number, Sources(records)))


@pytest.mark.parametrize("size", [*PRESETS, "pico", "paper-supernet"])
@pytest.mark.parametrize("number", ["2", "3"])
def test_figures_of_sizes_keep_their_texts_apart_and_whole(number, size):
    assert not faults(plan_of(number, Sources(size=size)))


def test_a_space_of_many_values_is_thinned_and_keeps_its_ends():
    space = SearchSpace(
        tuple(range(64, 1025, 32)), tuple(range(8, 38)), (1, 2, 3, 4, 5), tuple(range(9)), (1, 900)
    )
    arch = Arch(512, 16, 2, 3, 900)
    plan = Plan(lambda figure: draw_space(figure, space, arch, LONG), space_height_in(space, arch))
    assert not faults(plan)
    kept = thinned(space.patches, 16)
    assert {8, 16, 37} <= set(kept) <= set(space.patches) and len(kept) == 9


def test_training_and_pictures_keep_their_texts_apart_and_whole(tmp_path):
    rows = training_rows()
    assert not faults(Plan(lambda figure: draw_training(figure, rows), 2.7))
    run = write_run(tmp_path / "run")
    assert not faults(plan_of("6", Sources(run=run)))


def test_the_check_finds_what_it_looks_for():
    figure = Figure(figsize=(2, 2))
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.52, "other")
    figure.text(0.9, 0.1, "leaves the page")
    assert clipped(figure) == ["leaves the page"] and overlapping(figure) == [("one", "other")]


def test_every_number_of_figure_2_is_one_of_the_configuration():
    """Another width, depth or count gives another figure."""
    plain = PRESETS["nano"]

    def words(config, arch=plain.arch) -> str:
        from rfdetr_repro.plots.architecture import architecture_height_in, draw_architecture

        figure = drawn(
            lambda target: draw_architecture(target, config, arch, "x"),
            architecture_height_in(config, arch),
        )
        return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)

    first = words(plain.model)
    for change in (
        {"vit_dim": 768, "vit_heads": 12},
        {"vit_depth": 24},
        {"hidden": 512, "self_heads": 16, "cross_heads": 32},
        {"points": 4},
        {"ffn": 1024},
        {"decoder_layers": 5},
        {"groups": 1},
        {"levels": ("P3", "P5")},
        {"masks": True},
        {"num_classes": 20},
        {"patch": 14},
        {"pos_grid": 37},
        {"projector_blocks": 1},
        {"feature_stages": (6, 12)},
    ):
        assert words(replace(plain.model, **change)) != first, change


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_format_gives_equal_bytes_twice(suffix, tmp_path):
    from rfdetr_repro.plots.figures import draw_figure

    for figure in ("2", "3", "4"):
        first, second = (
            draw_figure(figure, Sources(RECORDS), tmp_path / name, [suffix])[0].read_bytes()
            for name in ("a", "b")
        )
        assert first == second and len(first) > 2000


@pytest.mark.parametrize("text", ["", "one", "a few short words " * 9, "x" * 300, "a\nb"])
def test_wrapped_lines_fit_and_lose_nothing(text):
    lines = wrapped(text, 1.5, 7.0)
    assert all(text_width_in(line, 7.0) <= 1.5 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_pushed_apart_keeps_order_distance_and_limits():
    draws = random.Random(1)
    for _ in range(200):
        values = [draws.uniform(-1, 11) for _ in range(draws.randint(1, 12))]
        places = pushed_apart(values, 0.5, 0, 10)
        assert sorted(range(len(values)), key=values.__getitem__) == sorted(
            range(len(places)), key=places.__getitem__
        )
        ordered = sorted(places)
        assert all(b - a >= 0.5 - 1e-9 for a, b in pairwise(ordered))
        assert -1e-9 <= ordered[0] and ordered[-1] <= 10 + 1e-9
    assert pushed_apart([5, 5, 5], 9, 0, 10) == [0, 5, 10]
