"""Effect of one step of one knob: pairs by hand, intervals over backbones, and what must never be
paired.
"""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from samples_run import SPACE, run_records, search_record

from rfdetr_repro.plots.sensitivity import draw_sensitivity, sensitivity_height_in
from rfdetr_repro.plots.style import drawn, style
from rfdetr_repro.records.record import NEVER_TRAINED, Accuracy, Latency, Record
from rfdetr_repro.records.sensitivity import (
    Change,
    clustered_mean,
    comparable_searches,
    sensitivity,
)
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import KNOBS, Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables import command as tables
from rfdetr_repro.tables.campaign import SYNTHETIC
from rfdetr_repro.tables.format import FORMATS
from rfdetr_repro.tables.sensitivity import sensitivity_tables

RECORDS = run_records()


def record(key: str, ap: float, ms: float, **model: object) -> Record:
    made = search_record(Arch.parse(key))
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, **model),
        accuracy=Accuracy(ap),
        latency=Latency(ms, "modelled"),
    )


def test_a_step_is_the_mean_over_pairs_that_differ_in_nothing_else() -> None:
    records = [
        record("r128-p16-w1-d1-q10", 0.10, 2.0),
        record("r128-p16-w1-d2-q10", 0.13, 3.0),  # +3 points, +50 %
        record("r96-p16-w1-d1-q10", 0.08, 1.0),
        record("r96-p16-w1-d2-q10", 0.09, 1.1),  # +1 point, +10 %
        record("r96-p12-w1-d2-q25", 0.50, 9.0),  # differs from each in more than one knob
    ]
    (group,) = comparable_searches(records)
    resolution, depth = sensitivity(group)
    assert (depth.knob, depth.low, depth.high, depth.pairs, depth.backbones) == (
        "decoder_layers",
        1,
        2,
        2,
        2,
    )
    assert depth.ap_points.mean == pytest.approx(
        2.0
    ) and depth.latency_percent.mean == pytest.approx(30.0)
    assert depth.ap_points.low == pytest.approx(1.0) and depth.ap_points.high == pytest.approx(3.0)
    assert (resolution.knob, resolution.pairs, resolution.backbones) == ("resolution", 2, 1)
    assert resolution.ap_points == Change(pytest.approx(3.0))  # one backbone: no interval


def test_the_interval_is_over_backbones_not_over_pairs() -> None:
    rng = np.random.default_rng(1)
    offsets = rng.normal(size=12)
    values = np.repeat(offsets, 30)
    clusters = np.repeat(np.arange(12), 30)
    clustered = clustered_mean(values, clusters)
    each = clustered_mean(values, range(len(values)))
    assert clustered.mean == pytest.approx(each.mean) == pytest.approx(offsets.mean())
    assert clustered.high - clustered.low > 4 * (each.high - each.low)
    expected = 2 * 1.96 * offsets.std() / np.sqrt(12)
    assert clustered.high - clustered.low == pytest.approx(expected, rel=0.15)
    assert clustered_mean(values, clusters) == clustered  # seeded


def test_all_steps_of_a_whole_space() -> None:
    steps = {(step.knob, step.low): step for step in sensitivity(comparable_searches(RECORDS)[0])}
    assert len(steps) == 2 + 2 + 1 + 2 + 2
    queries = steps["queries", 15]
    assert (queries.pairs, queries.backbones) == (len(SPACE) // 3, 18)
    # 0.12 points each
    assert queries.ap_points.mean == pytest.approx(1.2) and queries.ap_points.low == pytest.approx(
        1.2
    )


def test_steps_are_those_of_every_pair_of_a_space_with_gaps_and_repetitions() -> None:
    rng = np.random.default_rng(5)
    sides = {"resolution": (96, 100, 128, 160), "patch": (8, 16), "windows": (1, 2)}
    axes = {**sides, "decoder_layers": (0, 1, 3), "queries": (5, 10, 40), "width": (0, 64, 192)}
    every = [
        Arch(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ]
    drawn = [every[place] for place in rng.integers(len(every), size=len(every))]
    records = [record(arch.key, *rng.uniform(0.1, 0.9, 2)) for arch in drawn]
    (group,) = comparable_searches(records)
    last = {one.model.arch: one for one in group}  # at the place of the first
    assert len(last) < len(group) < len(every) + 1
    expected = {}
    for knob in KNOBS:
        for low, high in itertools.pairwise(axes[knob]):
            pairs = [
                (one, last[other])
                for arch, one in last.items()
                if getattr(arch, knob) == low
                and (other := dataclasses.replace(arch, **{knob: high})) in last
            ]
            clusters = [before.model.arch.backbone for before, _ in pairs]
            expected[knob, low, high] = (
                len(pairs),
                len(set(clusters)),
                clustered_mean([100 * (b.accuracy.ap - a.accuracy.ap) for a, b in pairs], clusters),
                clustered_mean(
                    [100 * (b.latency.median_ms / a.latency.median_ms - 1) for a, b in pairs],
                    clusters,
                ),
            )
    found = {
        (step.knob, step.low, step.high): (
            step.pairs,
            step.backbones,
            step.ap_points,
            step.latency_percent,
        )
        for step in sensitivity(group)
    }
    assert found == expected and list(found) == list(expected)  # to the last bit


@pytest.mark.parametrize(
    "other", [{"checkpoint_sha256": "f" * 64}, {"variant": NEVER_TRAINED}, {"task": "detect"}]
)
def test_other_models_make_no_pair(other: dict[str, str]) -> None:
    records = [
        record("r128-p16-w1-d1-q10", 0.1, 2.0),
        record("r128-p16-w1-d2-q10", 0.2, 3.0, **other),
    ]
    assert not any(map(sensitivity, comparable_searches(records))) and not sensitivity_tables(
        records
    )


@pytest.mark.parametrize("form", FORMATS)
def test_the_table_in_every_format(form, tmp_path, capsys) -> None:
    path = tmp_path / "records.jsonl"
    Store(path).extend(RECORDS)
    assert tables.main(["--table", "sensitivity", "--records", str(path), "--format", form]) == 0
    out = capsys.readouterr().out
    assert "+1.20" in out or form in ("csv", "json")
    assert form == "csv" or (SYNTHETIC.split(";")[0] in out and "SYNTHETIC" in out)
    if form == "json":
        row = json.loads(out)["tables"][0]["rows"][-1]
        assert (
            row["knob"] == "queries" and row["ap_mean"] == pytest.approx(1.2) and row["pairs"] == 54
        )


def test_the_figure_shows_the_numbers_of_the_table() -> None:
    with style():
        figure = Figure(figsize=(6.7, sensitivity_height_in(RECORDS)))
        FigureCanvasAgg(figure)
        draw_sensitivity(figure, [*RECORDS, record("r128-p16-w1-d1-q10", 0.1, 2.0, task="detect")])
        figure.canvas.draw()
    (table,) = sensitivity_tables(RECORDS)
    for axes, key in zip(figure.axes, ("ap_mean", "latency_mean"), strict=True):
        assert list(axes.lines[-1].get_xdata()) == pytest.approx(
            [row[key].value for row in table.rows]
        )
        boxes = [
            label.get_window_extent()
            for label in axes.get_yticklabels()
            if label.get_visible() and label.get_text()
        ]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)
    text = " ".join(text.get_text() for text in figure.texts)
    assert "synthetic data: not COCO AP" in text and "162 configurations" in text
    with pytest.raises(InputError, match="no pair of search Records"):
        sensitivity_height_in([])


def test_the_figure_of_very_many_steps_fits_a_page_and_says_how_many_it_shows() -> None:
    many = [
        record(f"r{side}-p16-w1-d{layers}-q10", 0.2, 2.0 + layers)
        for side in range(64, 64 + 16 * 80, 16)
        for layers in (1, 2, 3)
    ]
    height = sensitivity_height_in(many)
    figure = drawn(lambda holder: draw_sensitivity(holder, many), height)
    assert height < 10.0
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 36
    # both ends of the long axis, and all of the short one
    assert labels[0] == "resolution 64 → 80 px" and labels[33] == "resolution 1312 → 1328 px"
    assert labels[34:] == ["decoder layers 1 → 2", "decoder layers 2 → 3"]
    assert "36 of 81 steps are drawn" in " ".join(text.get_text() for text in figure.texts)
