"""Suppression inside the graph against plain greedy suppression, YOLO's raw outputs, prototype
masks, letterboxed images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from samples_coco import random_document, write_folder

from rfdetr_repro.bench.accuracy import accuracy_of
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.network_input import GREY, Letterbox, network_input
from rfdetr_repro.export.adopt.adoption import Categories, adopt
from rfdetr_repro.export.artifact import LETTERBOX_RULE
from rfdetr_repro.export.onnx.nms import KINDS, MOST, Nms
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import PLAIN_LETTERBOX

HEIGHT = 32
WIDTH = 64
FORBIDDEN = {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"}


def raw_file(path: Path, outputs: dict[str, np.ndarray]) -> Path:
    """A detector of constant outputs that depend on the image by nothing but a zero."""
    nodes = [helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[0, 1, 2, 3], keepdims=0)]
    constants = []
    constants.append(numpy_helper.from_array(np.float32(0), "zero"))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(np.float32(value), f"{name}_fixed"))
        nodes.append(helper.make_node("Add", [f"{name}_fixed", "nothing"], [name]))
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(nodes, "g", [given], results, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def found_by(path: Path, folder: Path, **options: Any) -> Any:
    artifact = adopt(path, folder / "adopted.onnx", **options)
    kinds = {node.op_type for node in onnx.load(artifact.path).graph.node}
    static = options.get("nms", Nms()).kind == "static"
    assert not kinds & FORBIDDEN if static else "NonMaxSuppression" in kinds
    return artifact, OrtSession(artifact, threads=1).run(
        np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    )


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    sides = np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2])
    common = float(np.prod(sides.clip(0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2])) - common
    return common / union if union > 0 else 0.0


def greedy(boxes_cxcywh: np.ndarray, scores: np.ndarray, options: Nms) -> list[tuple[int, int]]:
    """(anchor, class) of what plain greedy suppression keeps, best first; boxes (N, 4), scores (N,
    C).
    """
    corners = np.concatenate(
        [
            boxes_cxcywh[:, :2] - boxes_cxcywh[:, 2:] / 2,
            boxes_cxcywh[:, :2] + boxes_cxcywh[:, 2:] / 2,
        ],
        1,
    )
    pairs = [(n, c) for n in range(len(scores)) for c in range(scores.shape[1])]
    if not options.multi_label:
        pairs = [(n, int(scores[n].argmax())) for n in range(len(scores))]
    pairs = sorted(pairs, key=lambda pair: -scores[pair])[: options.candidates]
    kept: list[tuple[int, int]] = []
    for n, c in pairs:
        rivals = [corners[m] for m, k in kept if k == c]
        if scores[n, c] > options.score and all(
            overlap(rival, corners[n]) <= options.iou for rival in rivals
        ):
            kept.append((n, c))
    return kept[:MOST]


def yolo_output(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes, scores], 1).T[None].astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.3, 0.7]), st.sampled_from(KINDS))
def test_it_is_greedy_suppression(
    tmp_path_factory: pytest.TempPathFactory, seed: int, multi_label: bool, iou: float, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("nms")
    # in clusters
    centres = rng.uniform([8, 8], [56, 24], (12, 2))[rng.integers(0, 12, 60)] + rng.normal(
        0, 2, (60, 2)
    )
    boxes = np.concatenate([centres, rng.uniform(6, 18, (60, 2))], 1).astype(np.float32)
    scores = rng.permutation(180).reshape(60, 3).astype(np.float32) / 200
    options = Nms(score=0.1, iou=iou, candidates=50, rounds=50, multi_label=multi_label, kind=kind)
    expected = greedy(boxes, scores, options)
    _, found = found_by(
        raw_file(folder / "raw.onnx", {"out": yolo_output(boxes, scores)}), folder, nms=options
    )
    real = found.scores[0] > 0
    assert found.labels[0][real].tolist() == [c for _, c in expected]
    np.testing.assert_allclose(
        found.scores[0][real], [scores[pair] for pair in expected], atol=1e-6
    )
    centre = (found.boxes_xyxy[0][real, :2] + found.boxes_xyxy[0][real, 2:]) / 2 * [WIDTH, HEIGHT]
    np.testing.assert_allclose(centre, [boxes[n, :2] for n, _ in expected], atol=1e-3)


def chain(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of which each overlaps the next only: greedy keeps every second one."""
    boxes = np.stack(
        [
            8 + 4.0 * np.arange(length),
            np.full(length, 16.0),
            np.full(length, 10.0),
            np.full(length, 8.0),
        ],
        1,
    )
    return boxes, np.linspace(0.9, 0.5, length)[:, None]


@pytest.mark.parametrize("length", [2, 5, 10])
def test_a_chain_of_suppressions_needs_a_round_per_link(tmp_path: Path, length: int) -> None:
    boxes, scores = chain(length)
    path = raw_file(tmp_path / "raw.onnx", {"out": yolo_output(boxes, scores)})
    for rounds in (length - 1, length - 2):
        options = Nms(iou=0.4, candidates=length, rounds=rounds, kind="static")
        _, found = found_by(path, tmp_path, nms=options, form="yolo")
        exact = int((found.scores > 0).sum()) == len(greedy(boxes, scores, options))
        assert exact is (rounds == length - 1)  # one round fewer: the last box has not heard yet


def test_classes_do_not_suppress_each_other(tmp_path: Path) -> None:
    boxes = np.tile([[20.0, 16, 10, 10]], (3, 1))
    scores = np.array([[0.9, 0], [0, 0.8], [0.7, 0]])
    _, found = found_by(
        raw_file(tmp_path / "raw.onnx", {"out": yolo_output(boxes, scores)}), tmp_path, form="yolo"
    )
    assert found.scores[0][:3].tolist() == pytest.approx([0.9, 0.8, 0]) and found.labels[0][
        :2
    ].tolist() == [0, 1]


def test_objectness_multiplies_the_scores(tmp_path: Path) -> None:
    rows = np.float32([[20, 16, 10, 10, 0.5, 0.8, 0.1], [40, 16, 4, 4, 0.9, 0.2, 0.9]])[None]
    artifact, found = found_by(
        raw_file(tmp_path / "raw.onnx", {"out": rows}), tmp_path, form="yolo-objectness"
    )
    np.testing.assert_allclose(found.scores[0], [0.81, 0.4], atol=1e-6)
    assert found.labels[0].tolist() == [1, 0]
    np.testing.assert_allclose(
        found.boxes_xyxy[0, 0], [38 / 64, 14 / 32, 42 / 64, 18 / 32], atol=1e-6
    )
    assert (
        artifact.manifest.resize == PLAIN_LETTERBOX
        and "IoU 0.7" in artifact.manifest.packages["nms"]
    )


def test_masks_are_weighed_prototypes_inside_their_boxes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[16.0, 16, 16, 16], [48, 12, 20, 8], [17, 16, 16, 16]])
    scores = np.array([[0.5], [0.9], [0.4]])
    weights = rng.normal(size=(3, 4))
    protos = rng.normal(size=(1, 4, 8, 16)).astype(np.float32)
    # more anchors than numbers
    raw = np.pad(
        yolo_output(boxes, np.concatenate([scores, weights], 1)), ((0, 0), (0, 0), (0, 20))
    )
    artifact, found = found_by(
        raw_file(tmp_path / "raw.onnx", {"out": raw, "protos": protos}), tmp_path
    )
    assert artifact.manifest.model.task == "segment" and found.masks.shape == (1, 23, 8, 16)
    assert (found.scores[0] > 0).sum() == 2
    for row, anchor in enumerate((1, 0)):
        expected = np.tensordot(weights[anchor], protos[0], 1)
        cx, cy, w, h = boxes[anchor] / 4
        columns = np.arange(16) + 0.5  # centres of the cells
        lines = np.arange(8) + 0.5
        inside = ((lines >= cy - h / 2) & (lines < cy + h / 2))[:, None] & (
            (columns >= cx - w / 2) & (columns < cx + w / 2)
        )
        assert 0 < inside.sum() < inside.size
        expected = np.where(inside, expected, -np.abs(expected))
        np.testing.assert_allclose(found.masks[0, row], expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 7, 40])
def test_injected_candidates_are_as_many_as_asked(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    # none overlaps another
    boxes = np.concatenate([rng.uniform(8, 24, (40, 2)), np.full((40, 2), 0.01)], 1)
    path = raw_file(tmp_path / "raw.onnx", {"out": yolo_output(boxes, rng.uniform(0, 1, (40, 2)))})
    artifact, found = found_by(path, tmp_path, weights="random", nms=Nms(inject=count))
    assert int((found.scores > 0).sum()) == count
    assert (
        artifact.manifest.packages["injected_candidates"] == str(count)
        and artifact.manifest.model.weights == "random"
    )


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "raw.onnx", {"out": np.zeros((1, 6, 40), np.float32)})
    with pytest.raises(InputError, match="41 candidates cannot be injected among 40 boxes"):
        adopt(path, tmp_path / "a.onnx", weights="random", nms=Nms(inject=41))
    with pytest.raises(InputError, match="stated to be trained"):
        adopt(path, tmp_path / "a.onnx", nms=Nms(inject=4))
    with pytest.raises(InputError, match="do not have the form yolo-seg"):
        adopt(path, tmp_path / "a.onnx", form="yolo-seg")
    with pytest.raises(InputError, match="leave no class"):
        adopt(
            raw_file(tmp_path / "few.onnx", {"out": np.zeros((1, 40, 5), np.float32)}),
            tmp_path / "a.onnx",
            form="yolo-objectness",
        )
    with pytest.raises(InputError, match="match no known form"):
        adopt(
            raw_file(tmp_path / "odd.onnx", {"out": np.zeros((1, 4, 4), np.float32)}),
            tmp_path / "a.onnx",
        )
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("image_hw", [(30, 50), (60, 40), (32, 64), (7, 64)])
def test_letterbox_there_and_back(image_hw: tuple[int, int]) -> None:
    box = Letterbox(image_hw, (HEIGHT, WIDTH))
    image = np.full((*image_hw, 3), 255, np.uint8)
    values = network_input([image], (HEIGHT, WIDTH), LETTERBOX_RULE)[0].transpose(1, 2, 0)
    picture = np.rint(255 * values).astype(np.uint8)
    rows = np.flatnonzero((picture[:, :, 0] == 255).any(1))
    columns = np.flatnonzero((picture[:, :, 0] == 255).any(0))
    shown = np.float32(
        [[columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT]]
    )
    assert (
        set(np.unique(picture)) <= {GREY, 255}
        and max(box.scaled_hw[0] / HEIGHT, box.scaled_hw[1] / WIDTH) == 1
    )
    height, width = image_hw
    back = box.boxes_of_picture(shown) * [width, height, width, height]
    assert np.abs(back - [[0, 0, width, height]]).max() <= 0.5 / box.scale
    assert box.masks_of_picture(picture.transpose(2, 0, 1)).min() == 255


def test_boxes_of_a_wide_image_come_back_in_its_own_pixels(tmp_path: Path) -> None:
    """A letterboxed detector that sees the whole picture gets full AP on images of any shape (x is
    not divided by the height).
    """
    split = read_split(write_folder(tmp_path / "data", random_document(0, 1)), "train")
    info = split.images[0]
    truth = split.ground_truth()["annotations"]
    box = Letterbox((info.height, info.width), (HEIGHT, WIDTH))
    boxes = []
    scores = []
    for annotation in truth:
        x, y, w, h = np.array(annotation["bbox"]) * box.scale
        boxes.append([x + w / 2 + box.top_left[1], y + h / 2 + box.top_left[0], w, h])
        label = split.classes.category_ids.index(annotation["category_id"])
        scores.append(0.9 * np.eye(len(split.classes.names))[label])
    path = raw_file(tmp_path / "raw.onnx", {"out": yolo_output(np.array(boxes), np.array(scores))})
    categories = Categories(split.classes.category_ids, split.classes.names)
    artifact = adopt(
        path, tmp_path / "adopted.onnx", form="yolo", categories=categories, nms=Nms(iou=0.99)
    )
    assert network_input([split.load_image(0)], (HEIGHT, WIDTH), LETTERBOX_RULE).shape == (
        1,
        3,
        HEIGHT,
        WIDTH,
    )
    boxes_accuracy, _ = accuracy_of(OrtSession(artifact, threads=1), split)
    assert boxes_accuracy.ap50 == pytest.approx(1.0)
