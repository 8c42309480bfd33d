"""Figure 6 with several models: which boxes, masks and names are drawn, from files as other
programs write them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from pycocotools import mask as oracle
from text_boxes import clipped, overlapping

from rfdetr_repro.plots import command
from rfdetr_repro.plots.figures import Rivals, Sources, plan_of
from rfdetr_repro.plots.rivals import decode_rle
from rfdetr_repro.plots.style import drawn
from rfdetr_repro.spec.errors import InputError, run_main

LONG = "a class or a model with a name of very many words that nobody would read on a figure"


def square(value: bool = True) -> dict:
    whole = np.zeros((40, 60), np.uint8, order="F")
    whole[10:20, 30:50] = value
    code = oracle.encode(whole)
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.fixture
def files(tmp_path) -> Path:
    """Two images; ours as predict writes it, theirs as COCO results, and the annotations."""
    for name, grey in (("a.png", 80), ("b.png", 160)):
        Image.fromarray(np.full((40, 60, 3), grey, np.uint8)).save(tmp_path / name)
    rows = [
        {
            "image": name,
            "path": str(tmp_path / name),
            "width": 60,
            "height": 40,
            "objects": [
                {"category_id": 7, "class": "cat", "score": 0.9, "box_xyxy": [1, 2, 21, 32]},
                {"category_id": 7, "class": "cat", "score": 0.1, "box_xyxy": [0, 0, 5, 5]},
            ],
        }
        for name in ("a.png", "b.png")
    ]
    rows[0]["objects"][0]["mask_rle"] = square()
    rows.append({"image": "broken.png", "path": "broken.png", "error": "not an image"})
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "predictions.json").write_text(json.dumps(rows))
    results = [
        {"image_id": 5, "category_id": 1, "bbox": [30, 10, 20, 10], "score": 0.8},
        {"image_id": 5, "category_id": 2, "bbox": [3, 10, 20, 10], "score": 0.7},
        {"image_id": 6, "category_id": 1, "bbox": [3, 10, 20, 10], "score": 0.29},
    ]
    (tmp_path / "theirs.json").write_text(json.dumps(results))
    truth = {
        "images": [{"id": 5, "file_name": "x/a.png"}, {"id": 6, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": LONG}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def shown(files: Path, **changes):
    settings = {
        "files": [files / "ours" / "predictions.json", files / "theirs.json"],
        "annotations": files / "truth.json",
    }
    plan = plan_of("6", Sources(rivals=Rivals(**{**settings, **changes})))
    return drawn(plan.draw, plan.height_in)


def boxes(axes) -> list[tuple[float, ...]]:
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(one.get_x(), one.get_y(), one.get_width(), one.get_height()) for one in found]


def test_each_column_has_the_boxes_of_its_file_above_the_threshold(files):
    figure = shown(files)
    panels = [boxes(axes) for axes in figure.axes]
    assert panels[0] == [(-0.5, -0.5, 9, 9)]  # a crowd is no object
    assert panels[1] == [(0.5, 1.5, 20, 30)]
    assert panels[2] == [(29.5, 9.5, 20, 10), (2.5, 9.5, 20, 10)]
    assert panels[3] == [] and panels[5] == []  # 0.29 is below the threshold
    titles = [text.get_text() for text in figure.texts]
    assert {"ground truth: 1", "ours: 1", "theirs: 2", "theirs: 0"} <= set(titles)
    lower = shown(files, least=0.05)
    assert len(boxes(lower.axes[1])) == 2 and len(boxes(lower.axes[5])) == 1


def test_equal_names_of_classes_have_equal_colours_in_every_column(files):
    figure = shown(files)
    truth, ours, theirs = (axes.patches[0].get_edgecolor() for axes in figure.axes[:3])
    assert truth == ours == theirs != figure.axes[2].patches[1].get_edgecolor()


def test_masks_cover_the_pixels_that_pycocotools_decodes(files):
    figure = shown(files)
    pixels = figure.axes[1].images[0].get_array()
    inside = oracle.decode(square()).astype(bool)
    assert (pixels[~inside] == 80).all() and (pixels[inside] != 80).any(axis=-1).all()
    assert (figure.axes[2].images[0].get_array() == 80).all()


def test_texts_stay_apart_with_long_names_and_many_classes(files):
    rows = json.loads((files / "ours" / "predictions.json").read_text())
    rows[0]["objects"] += [
        {"category_id": n, "class": f"{LONG} {n}", "score": 0.9, "box_xyxy": [n, n, n + 9, n + 9]}
        for n in range(30)
    ]
    (files / "ours" / "predictions.json").write_text(json.dumps(rows))
    figure = shown(files, names=[LONG, LONG[::-1]])
    assert not clipped(figure) and not overlapping(figure)
    assert any("other classes" in text.get_text() for text in figure.texts)


def test_the_command_draws_it_and_names_what_is_missing(files, capsys):
    ours = str(files / "ours" / "predictions.json")
    theirs = str(files / "theirs.json")
    out = str(files / "out")
    run = ["--figure", "6", "--out", out]
    assert run_main(command.main, [*run, "--predictions", ours]) == 0
    assert (files / "out" / "figure_6.png").stat().st_size > 1000
    capsys.readouterr()
    for arguments, says in (
        (["--predictions", ours, theirs], "--annotations"),
        (["--predictions", ours, "--names", "a", "b"], "2 names for 1 file"),
        (["--names", "a"], "--predictions"),
        (["--predictions", str(files / "truth.json")], "not a file of predictions"),
        (["--predictions", ours, "--annotations", ours], "not a COCO annotation file"),
    ):
        assert run_main(command.main, [*run, *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and says in error


def test_an_image_that_is_gone_is_named(files):
    (files / "a.png").unlink()
    with pytest.raises(InputError, match="not found"):
        shown(files)
    (files / "ours" / "predictions.json").write_text("[]")
    with pytest.raises(InputError):
        shown(files)


@pytest.mark.parametrize("seed", range(6))
def test_run_length_codes_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 90, 2))
    noise = rng.random(shape) < (0.5, 0.01, 0.99, 0.0, 1.0, 0.3)[seed]
    whole = np.asfortranarray(np.kron(noise, np.ones((1 + seed, 1 + seed))) > 0, np.uint8)
    code = oracle.encode(whole)
    assert (decode_rle(code["counts"].decode(), whole.shape) == whole).all()


@pytest.mark.parametrize("counts", ["", "1", "?", "z", "O", "ÿ"])
def test_a_broken_run_length_code_is_refused(counts):
    with pytest.raises(InputError, match="do not add up"):
        decode_rle(counts, (4, 5))
