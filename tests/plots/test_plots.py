"""Plots: what is drawn comes from the Records, backends stay apart, and every file is whole."""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from samples_records import measured
from samples_run import SPACE, run_records, training_rows, write_run

from rfdetr_repro.plots import command
from rfdetr_repro.plots import figures as plots
from rfdetr_repro.plots.detections import Annotations, draw_detections
from rfdetr_repro.plots.knobs import draw_decoder, draw_knobs
from rfdetr_repro.plots.pareto import draw_pareto
from rfdetr_repro.plots.pictures import draw_pictures, run_pictures
from rfdetr_repro.plots.published import draw_published
from rfdetr_repro.plots.style import BLUE, drawable, shortened, style
from rfdetr_repro.plots.training import draw_training
from rfdetr_repro.records.ap_intervals import encode, paired
from rfdetr_repro.records.pareto import confirmed_points
from rfdetr_repro.records.record import DataId, Resampled
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.protocol import Protocol

RECORDS = run_records()


def drawn(draw, *arguments, **options) -> Figure:
    with style():
        figure = Figure(figsize=(6.7, 4))
        FigureCanvasAgg(figure)
        draw(figure, *arguments, **options)
        figure.canvas.draw()
    return figure


def words(figure: Figure) -> str:
    axes_texts = [
        text.get_text()
        for axes in figure.axes
        for text in [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    ]
    return " | ".join([*(text.get_text() for text in figure.texts), *axes_texts]).replace("\n", " ")


def bars(axes) -> list[ErrorbarContainer]:
    return [container for container in axes.containers if isinstance(container, ErrorbarContainer)]


def test_the_pareto_plot_shows_search_val_and_test():
    figure = drawn(draw_pareto, RECORDS)
    sustained, buffered = figure.axes
    # modelled for the sustained mode
    assert len(sustained.collections[0].get_offsets()) == len(SPACE)
    points = confirmed_points(RECORDS)
    val, test = bars(buffered)
    assert val[0].get_xdata() == pytest.approx([point.val.latency.median_ms for point in points])
    assert val[0].get_ydata() == pytest.approx([100 * point.val.accuracy.ap for point in points])
    assert test[0].get_ydata() == pytest.approx([100 * point.test.accuracy.ap for point in points])
    ends = val[2][0].get_segments()[0][:, 0]
    assert ends == pytest.approx(
        [points[0].val.latency.ci_low_ms, points[0].val.latency.ci_high_ms]
    )
    text = words(figure)
    assert (
        "synthetic data: not COCO AP" in text
        and "latency modelled" in text
        and "onnxruntime-cpu buffered" in text
    )


def cloud_of(axes) -> int:
    """Modelled points of a panel."""
    return sum(
        len(one.get_offsets()) for one in axes.collections if isinstance(one, PathCollection)
    )


@pytest.mark.parametrize(
    ("deployment", "mode"), [(None, "sustained"), ("onnxruntime fp32 buffered", "buffered")]
)
def test_no_axis_of_the_pareto_plot_mixes_two_modes(deployment, mode):
    """Latencies differ by mode in the samples: 1.02 times the modelled one buffered, 0.9 times
    sustained.
    """
    records = [
        replace(record, deployment=deployment) if record.source == "search" else record
        for record in RECORDS
    ]
    figure = drawn(draw_pareto, records)
    by_mode = {axes.get_xlabel().split()[0]: axes for axes in figure.axes}
    assert set(by_mode) == {"sustained", "buffered"}
    for name, axes in by_mode.items():
        timed = {
            r.latency.median_ms
            for r in records
            if r.source == "protocol" and r.protocol.mode == name
        }
        drawn_ms = {float(x) for container in bars(axes) for x in container[0].get_xdata()}
        assert drawn_ms == timed
        assert cloud_of(axes) == (len(SPACE) if name == mode else 0)


def test_a_search_of_another_supernet_machine_or_runtime_has_a_panel_of_its_own():
    search, measured_here = (
        [record for record in RECORDS if (record.source == "search") is flag]
        for flag in (True, False)
    )
    for change in (
        {"machine": replace(search[0].machine, cpu="Another CPU")},
        {"deployment": "openvino fp32"},
        {"deployment": "onnxruntime fp16 sustained"},
        {"deployment": "onnxruntime fp32 CUDA graph sustained"},
        {"model": "another supernet"},
        {"data": DataId("another set", "val", "e" * 64)},
    ):
        changed = []
        for record in search:
            model = replace(record.model, checkpoint_sha256="f" * 64)
            changed.append(replace(record, **({"model": model} if "model" in change else change)))
        figure = drawn(draw_pareto, [*changed, *measured_here])
        clouds = [axes for axes in figure.axes if cloud_of(axes)]
        assert len(figure.axes) >= 3 and len(clouds) == 1 and not bars(clouds[0]), change


def with_intervals() -> list:
    """The confirmed Records with intervals of AP: neighbours' draws differ by noise, the first and
    the last by more.
    """
    rng = np.random.default_rng(0)
    found = []
    for record in RECORDS:
        if record.source == "protocol":
            ap = record.accuracy.ap
            resampled = Resampled(
                "bootstrap",
                150,
                200,
                0,
                60.0,
                "same draws",
                encode(ap + 0.02 * rng.normal(size=200)),
            )
            accuracy = replace(
                record.accuracy, ap_low=max(0.0, ap - 0.04), ap_high=ap + 0.05, resampled=resampled
            )
            record = replace(record, accuracy=accuracy)
        found.append(record)
    return found


def test_intervals_of_ap_are_whiskers_and_an_order_that_is_not_established_is_dotted():
    records = with_intervals()
    point = confirmed_points(records)[0]
    axes = drawn(draw_pareto, records).axes[1]
    horizontal, vertical = bars(axes)[0][2]
    ends = vertical.get_segments()[0][:, 1]
    assert ends == pytest.approx(
        [100 * point.val.accuracy.ap_low, 100 * point.val.accuracy.ap_high]
    )
    assert len(horizontal.get_segments()) == len(confirmed_points(records))
    joined = [
        line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_color() == BLUE
    ]
    styles = [line.get_linestyle() == "-" for line in joined]
    front = [one.val for one in confirmed_points(records)]
    told = [paired(one, other).distinguishable for one, other in itertools.pairwise(front)]
    assert styles == told and not all(told)
    assert "intervals of the median latency and of AP" in words(drawn(draw_pareto, records))
    plain = drawn(draw_pareto, RECORDS)
    assert "how sure the APs are is not known" in words(plain)
    lines = [
        line
        for line in plain.axes[1].lines
        if len(line.get_xdata()) == 2 and line.get_color() == BLUE
    ]
    assert lines and all(line.get_linestyle() != "-" for line in lines)


def test_every_whisker_of_a_latency_lies_inside_the_panel():
    wide = []
    for record in with_intervals():
        timed = record.latency
        if timed is not None and timed.method == "measured":
            ends = {"ci_low_ms": 0.3 * timed.median_ms, "ci_high_ms": 2.5 * timed.median_ms}
            record = replace(record, latency=replace(timed, **ends))
        wide.append(record)
    for axes in drawn(draw_pareto, wide).axes:
        left, right = axes.get_xlim()
        for _, _, (horizontal, *_) in bars(axes):
            ends = [x for line in horizontal.get_segments() for x in line[:, 0]]
            assert ends and left < min(ends) and max(ends) < right


def test_the_line_of_the_pareto_plot_skips_points_that_lost():
    points = confirmed_points(RECORDS)
    loser = points[1].val
    worse = replace(
        loser, latency=replace(loser.latency, median_ms=30.0, ci_low_ms=29.0, ci_high_ms=31.0)
    )
    records = [worse if record is loser else record for record in RECORDS]
    axes = next(
        axes
        for axes in drawn(draw_pareto, records).axes
        if axes.get_xlabel().startswith("buffered")
    )
    joined = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert joined and all(30.0 not in list(ends) for ends in joined)


def test_measured_backends_get_their_own_panels():
    other = [
        replace(record, artifact=replace(record.artifact, runtime="openvino"))
        for record in RECORDS
        if record.source == "protocol"
    ]
    figure = drawn(draw_pareto, [*RECORDS, *other])
    assert len(figure.axes) == 4 and {"onnxruntime-cpu", "openvino"} <= set(words(figure).split())
    assert len([line for axes in figure.axes for line in axes.lines]) > 0


def test_more_panels_than_a_page_holds_are_counted():
    many = [
        replace(record, data=replace(record.data, name=f"set {n}"))
        for record in RECORDS[-3:]
        for n in range(9)
    ]
    figure = drawn(draw_pareto, many)
    assert len(figure.axes) == 6 and "12 more panels are left out" in words(figure)


def test_a_search_without_confirmation_is_labelled_as_modelled():
    figure = drawn(draw_pareto, [record for record in RECORDS if record.source == "search"])
    assert "Nothing here was confirmed" in words(figure) and not figure.axes[0].containers


def test_searches_that_may_not_share_an_axis_are_not_averaged():
    search = [record for record in RECORDS if record.source == "search"]
    other = [replace(record, deployment="onnxruntime fp32 buffered") for record in search[:20]]
    figure = drawn(draw_knobs, [*search, *other])
    assert "162 configurations" in words(
        figure
    ) and "20 Records of other searches are left out" in words(figure)
    assert "modelled sustained ms" in words(figure) and "modelled buffered" not in words(figure)
    assert "20 Records of other searches are left out" in words(
        drawn(draw_decoder, [*search, *other])
    )


ODD_NAMES = [
    "US$ 5 / CA$ 7 \\frac{1}{2}",
    "a_b^c & 5 % <b>bold</b> #1 ~ {x}",
    "犬と猫",
    "😀 emoji",
    "שלום עולם",
    "قطة",
    "two\nlines\ttab",
    "x" * 400,
    "\u200b\u202ename",
    "",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_free_text_in_names_is_drawn_without_markup(name, tmp_path):
    # a Record's data set has a name, a class may have none
    records = [replace(r, data=replace(r.data, name=name or "data")) for r in RECORDS[:40]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that no font has is a warning
        for suffix in ("png", "pdf"):
            assert plots.pareto_plot(records, tmp_path / f"p.{suffix}").stat().st_size > 1000
        plots.knob_plot(records, tmp_path / "k.png")
        found = Annotations(np.array([[2.0, 2, 30, 30]]), np.array([0]), np.array([0.9]))
        picture = np.zeros((40, 60, 3), np.uint8)
        plots.detections_figure([picture], [found], tmp_path / "d.png", class_names=[name])


def test_letters_without_a_font_are_named_and_long_names_keep_both_ends():
    missing = chr(0x10FFFD)  # private use: no font has it
    assert (
        drawable(f"a{missing}b") == "a<U+10FFFD>b"
        and drawable("US$ é") == "US$ é"
        and drawable("a\nb\u202e") == "a b"
    )
    text = shortened("first " + "x" * 100 + " last", 20)
    assert (
        len(text) == 20
        and text.startswith("first")
        and text.endswith("last")
        and shortened("short") == "short"
    )


def test_knob_means_are_means():
    figure = drawn(draw_knobs, RECORDS)
    search = [record for record in RECORDS if record.source == "search"]
    by_label = {(axes.get_xlabel(), axes.get_ylim()[1]): axes for axes in figure.axes}
    panels = [axes for (label, _), axes in by_label.items() if label == "decoder layers"]
    expected = {
        depth: float(
            np.mean(
                [
                    100 * record.accuracy.ap
                    for record in search
                    if record.model.arch.decoder_layers == depth
                ]
            )
        )
        for depth in SPACE.decoder_layers
    }
    assert list(panels[0].lines[0].get_ydata()) == pytest.approx(list(expected.values()))
    assert len(figure.axes) == 12
    assert "162 configurations" in words(figure) and "25 queries" in words(figure)


def test_the_decoder_plot_has_a_line_per_query_count():
    left, right, one = drawn(draw_decoder, RECORDS).axes
    assert len(left.lines) == len(right.lines) == len(SPACE.queries)
    assert len(one.lines) == len(SPACE.decoder_layers) and {
        len(line.get_xdata()) for line in one.lines
    } == {len(SPACE.queries)}


@pytest.mark.parametrize("draw", [draw_pareto, draw_knobs, draw_decoder])
def test_nothing_to_plot_is_an_input_error(draw):
    with pytest.raises(InputError, match="to plot"):
        drawn(draw, [])


def test_the_training_plot_reads_both_kinds_of_rows():
    text = words(drawn(draw_training, training_rows()))
    assert "val" in text and "test" in text and "training loss" in text
    rows = [
        {"step": 10, "loss": 5.0, "val_ap50": 0.1},
        {"step": 20, "loss": 4.0, "val_ap50": 0.2, "test_ap50": 0.05},
    ]
    figure = drawn(draw_training, rows)
    assert list(figure.axes[1].lines[0].get_ydata()) == pytest.approx([10.0, 20.0])
    assert len(drawn(draw_training, [{"step": 10, "loss": 5.0}]).axes) == 1
    with pytest.raises(InputError, match="neither a loss nor an evaluation"):
        drawn(draw_training, [{"step": 1}])


def test_measured_points_stand_beside_published_ones_only_if_measured_the_same_way():
    record = measured("N", 0.479, 2.4)
    figure = drawn(draw_published, "1", [record])
    diamonds = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "D"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in diamonds] == [
        (2.4, pytest.approx(47.9)),
        (2.4, 67.0),
    ]  # AP, AP50
    hollow = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert hollow and all(line.get_markerfacecolor() == "white" for line in hollow)
    assert "Published and measured" in words(figure) and "2 points" in words(figure)
    others = [
        measured(machine=dataclasses.replace(record.machine, gpu="NVIDIA H100")),
        measured(machine=dataclasses.replace(record.machine, gpu=None)),
        measured(protocol=Protocol("sustained", buffer_ms=0.0)),
        measured(precision="fp32"),
        measured(data=dataclasses.replace(record.data, num_images=500)),
        measured(ap=None),
        *RECORDS,
    ]
    assert "no stored Record was measured that way" in words(drawn(draw_published, "1", others))


def test_figure_4_quotes_the_paper_and_says_what_was_measured():
    text = words(drawn(draw_decoder, RECORDS))
    assert (
        "exist as an image only" in text
        and "162 searched configurations; without the last decoder layer -1.5 AP, -" in text
    )


def test_figure_6_shows_the_pictures_of_a_run(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    pictures = run_pictures(run)
    assert [picture.caption for picture in pictures] == ["val: prediction next to ground truth"]
    figure = drawn(draw_pictures, pictures)
    assert (
        len(figure.axes) == 1
        and "Predictions on held-out images" in words(figure)
        and "Figure 6" in words(figure)
    )
    assert run_main(command.main, ["--figure", "6", "--run", str(run), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "figure_6.png").stat().st_size > 1000
    (run / "predictions" / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match="not a picture"):
        run_pictures(run)
    capsys.readouterr()


@pytest.mark.parametrize("name", ["7", "v2_7", "v1_5"])
def test_files_have_the_numbers_of_the_camera_ready(name, tmp_path, capsys):
    assert run_main(command.main, ["--figure", name, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith("figure_7.png")
    assert "Figure 7 (5 in version 1)" in words(drawn(draw_published, "7"))


@pytest.mark.parametrize(("number", "panels"), [("1", 4), ("7", 1)])
def test_published_figures_say_that_they_are_published(number, panels):
    figure = drawn(draw_published, number)
    assert len(figure.axes) == panels and "Published, not measured here" in words(figure)
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()) > 4)
    assert min(line.get_xdata()) > 1
    with pytest.raises(InputError, match="no published points"):
        drawn(draw_published, "5")


def scene(score: float | None = 0.9) -> tuple[np.ndarray, Annotations]:
    image = np.full((40, 60, 3), 100, np.uint8)
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:20, 5:20] = True
    scores = None if score is None else np.array([score, 0.1])
    return image, Annotations(
        np.array([[5, 5, 20, 20], [30, 0, 60, 30]]), np.array([0, 7]), scores, masks
    )


def test_detections_draw_boxes_names_scores_and_masks():
    image, prediction = scene()
    _, truth = scene(None)
    figure = drawn(
        draw_detections, [image], [prediction], truths=[truth], class_names=["chair"], min_score=0.3
    )
    left, right = figure.axes
    # the prediction of score 0.1 is below the threshold
    assert len(left.patches) == 2 and len(right.patches) == 1
    assert [text.get_text() for text in right.texts] == ["chair 0.90"]
    assert [text.get_text() for text in left.texts] == ["chair", "class 7"]
    shown = np.asarray(right.images[0].get_array())
    assert (shown[10, 10] != 100).any() and (shown[30, 5] == 100).all()


def test_detections_refuse_what_does_not_fit_together():
    image, prediction = scene()
    with pytest.raises(InputError, match="different lengths"):
        Annotations(np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(InputError, match="different lengths"):
        drawn(draw_detections, [image, image], [prediction])
    with pytest.raises(InputError, match="uint8"):
        drawn(draw_detections, [image.astype(float)], [prediction])
    with pytest.raises(InputError, match="mask of shape"):
        drawn(draw_detections, [image[:30]], [prediction])


def test_no_objects_at_all_is_fine(tmp_path):
    image = np.zeros((20, 20, 3), np.uint8)
    nothing = Annotations(
        np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros((0, 20, 20), bool)
    )
    assert plots.detections_figure([image], [nothing], tmp_path / "none.png").stat().st_size > 500


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, second = (
        plots.pareto_plot(RECORDS, tmp_path / name).read_bytes() for name in ("a.png", "b.png")
    )
    assert first == second and first.startswith(b"\x89PNG")
    with pytest.raises(InputError, match="choose a file name"):
        plots.pareto_plot(RECORDS, tmp_path / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_command_draws_all_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run", pictures=False)
    assert run_main(command.main, ["--run", str(run), "--out", "out"]) == 0
    names = {
        *(f"figure_{number}.png" for number in (1, 2, 3, 4, 5, 7)),
        "pareto.png",
        "sensitivity.png",
        "training.png",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert len(capsys.readouterr().out.splitlines()) == len(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--figure", "pareto", "--records", "empty.jsonl"],
        ["--figure", "sensitivity", "--records", "empty.jsonl"],
        ["--figure", "training"],
        ["--figure", "4", "--records", "empty.jsonl"],
        ["--figure", "6"],
        ["--figure", "6", "--run", "."],
        ["--records", "absent"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert run_main(command.main, arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_log_with_a_torn_last_line_is_read_and_a_bad_one_refused(tmp_path):
    path = tmp_path / "train_log.jsonl"
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    assert plots.read_log(path) == rows
    for bad in ("nonsense", "[1]", '{"loss": 1}'):
        path.write_text(f'{{"step": 1}}\n{bad}\n')
        with pytest.raises(InputError, match=f"{path}:2"):
            plots.read_log(path)
