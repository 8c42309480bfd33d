"""One definition of AP: what an artifact gives is handed over whole, boxes are cut at the border,
and pycocotools agrees.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from samples_export import CATEGORY_IDS, NAMES, tiny_artifact, tiny_detector

from rfdetr_repro.bench.accuracy import accuracy_of, detect_split
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.evaluation.coco import detections_in_pixels
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.export.adopt.adoption import Categories, adopt
from rfdetr_repro.records.record import AP_RULE
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError

IMAGES = 8
DETECTIONS = 300
CLASSES = 3
HEIGHT = 48
WIDTH = 64
STEP = 24
CELLS = (12, 16)
Crowd = tuple[Path, dict[str, np.ndarray], OrtSession]
CATEGORIES = Categories((2, 5, 9), ("cup", "fork", "spoon"))


def crowded(seed: int = 0) -> dict[str, np.ndarray]:
    """Objects and 300 detections of few classes in every image; boxes of both reach over the
    border.
    """
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-3, [WIDTH - 6, HEIGHT - 6], (IMAGES, DETECTIONS, 2))
    size = rng.uniform(4, 20, (IMAGES, DETECTIONS, 2))
    truth = np.concatenate([corner, size], axis=2)[:, :220]
    found = np.concatenate([corner, size], axis=2) + rng.normal(0, 0.4, (IMAGES, DETECTIONS, 4))
    boxes = np.concatenate([found[..., :2], found[..., :2] + found[..., 2:]], axis=2) / [
        WIDTH,
        HEIGHT,
        WIDTH,
        HEIGHT,
    ]
    masks = np.full((IMAGES, DETECTIONS, *CELLS), -4.0)
    y, x = (np.arange(cells) * 4 + 2 for cells in CELLS)
    for image, row in np.ndindex(IMAGES, DETECTIONS):
        left, top, width, height = found[image, row]
        masks[image, row][
            np.ix_((y > top) & (y < top + height), (x > left) & (x < left + width))
        ] = 4.0
    order = np.sort(rng.uniform(0.05, 1, (IMAGES, DETECTIONS)), axis=1)[:, ::-1]
    labels = rng.integers(0, CLASSES, (IMAGES, DETECTIONS))
    return {
        "truth": truth,
        "truth_labels": labels[:, :220],
        "scores": order.astype(np.float32).copy(),
        "labels": labels,
        "boxes": boxes.astype(np.float32),
        "masks": masks.astype(np.float32),
    }


def write_set(folder: Path, table: dict[str, np.ndarray]) -> Path:
    """Image i is of the uniform grey 24 i, by which the model below knows it."""
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    document: dict[str, list] = {"images": [], "annotations": []}
    document["categories"] = [
        {"id": number, "name": name} for number, name in zip(*CATEGORIES, strict=True)
    ]
    for image in range(IMAGES):
        Image.new("RGB", (WIDTH, HEIGHT), (STEP * image,) * 3).save(folder / "val" / f"{image}.png")
        document["images"].append(
            {"id": 7 * image + 3, "file_name": f"{image}.png", "width": WIDTH, "height": HEIGHT}
        )
        for box, label in zip(
            table["truth"][image].tolist(), table["truth_labels"][image].tolist(), strict=True
        ):
            x, y, w, h = box
            number = len(document["annotations"]) + 1
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = {
                "id": number,
                "image_id": 7 * image + 3,
                "category_id": CATEGORIES.ids[label],
                "iscrowd": 0,
            }
            document["annotations"].append(
                {**annotation, "bbox": box, "area": w * h, "segmentation": [outline]}
            )
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return folder


def write_model(path: Path, table: dict[str, np.ndarray]) -> Path:
    """ONNX detector that reads the number of the image off its grey and gives that image's rows."""
    constants = [
        numpy_helper.from_array(table[name], f"all_{name}")
        for name in ("scores", "labels", "boxes", "masks")
    ]
    constants.append(numpy_helper.from_array(np.array(255 / STEP, np.float32), "step"))
    constants.append(numpy_helper.from_array(np.array([1]), "one"))
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["grey"], keepdims=0),
        helper.make_node("Mul", ["grey", "step"], ["place"]),
        helper.make_node("Round", ["place"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["number"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["number", "one"], ["index"]),
    ]
    outputs = []
    for name in ("scores", "labels", "boxes", "masks"):
        nodes.append(helper.make_node("Gather", [f"all_{name}", "index"], [name], axis=0))
        kind = TensorProto.INT64 if name == "labels" else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(name, kind, [1, *table[name].shape[1:]]))
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "crowded", [given], outputs, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def oracle(
    folder: Path, table: dict[str, np.ndarray], kind: str, most: int = DETECTIONS
) -> list[float]:
    """pycocotools' own numbers of the best ``most`` detections of every image, boxes cut at the
    border, maxDets 100.
    """
    from pycocotools import mask as mask_code
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = []
    for image in range(IMAGES):
        maps = torch.from_numpy(table["masks"][image])[None]
        large = (
            torch.nn.functional.interpolate(
                maps, (HEIGHT, WIDTH), mode="bilinear", align_corners=False
            )[0]
            > 0
        )
        for row in range(most):
            box = table["boxes"][image, row].clip(0, 1) * np.array(
                [WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32
            )
            x0, y0, x1, y1 = box.astype(np.float64)
            found = {
                "image_id": 7 * image + 3,
                "category_id": CATEGORIES.ids[table["labels"][image, row]],
            }
            found["score"] = float(table["scores"][image, row])
            if kind == "segm":
                found["segmentation"] = mask_code.encode(
                    np.asfortranarray(large[row].numpy().astype(np.uint8))
                )
            else:
                found["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            results.append(found)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "instances_val.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    pytest.importorskip("pycocotools", reason="pycocotools is the oracle")
    folder = tmp_path_factory.mktemp("crowd")
    table = crowded()
    write_set(folder / "data", table)
    model = write_model(folder / "model.onnx", table)
    return (
        folder / "data",
        table,
        OrtSession(adopt(model, folder / "adopted.onnx", categories=CATEGORIES), threads=1),
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_300_detections_an_image_have_pycocotools_ap(kind: str, crowd: Crowd) -> None:
    folder, table, session = crowd
    found = accuracy_of(session, read_split(folder, "val"))[kind == "segm"]
    assert found is not None and found.max_dets == 100 and found.rule == AP_RULE
    ours = [found.ap, found.ap50, found.ap75, found.ap_s, found.ap_m, found.ap_l]
    expected = oracle(folder, table, kind)
    assert [-1 if value is None else value for value in ours] == pytest.approx(expected, abs=1e-12)
    assert expected[0] > 1.15 * oracle(folder, table, kind, most=100)[0], (
        "what is cut per image would show here"
    )


def test_everything_is_handed_over(crowd: Crowd) -> None:
    folder, _, session = crowd
    assert [len(found.scores) for found in detect_split(session, read_split(folder, "val"))] == [
        DETECTIONS
    ] * IMAGES


def test_pytorch_and_the_artifact_mean_the_same_boxes(tmp_path: Path, crowd: Crowd) -> None:
    """Validation, the search and RFDETR (detections_of) against the artifact (detect_split): boxes
    inside, and the same.
    """
    detector = tiny_detector()
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if name.startswith("decoder.refpoint"):
                value.mul_(20)  # boxes far over the border
    session = OrtSession(tiny_artifact(tmp_path, detector), threads=1)
    document = json.loads((crowd[0] / "annotations" / "instances_val.json").read_text())
    for category, (number, name) in zip(
        document["categories"], zip(CATEGORY_IDS, NAMES, strict=True), strict=True
    ):
        for annotation in document["annotations"]:
            if annotation["category_id"] == category["id"]:
                annotation["category_id"] = number
        category |= {"id": number, "name": name}
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "val").symlink_to(crowd[0] / "val")
    (tmp_path / "data" / "annotations" / "instances_val.json").write_text(json.dumps(document))
    split = read_split(tmp_path / "data", "val")
    for one, other in zip(
        single_detections(detector, split, masks=True), detect_split(session, split), strict=True
    ):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        for found in (one, other):
            assert (
                found.boxes_xyxy.min() >= 0
                and (found.boxes_xyxy <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
            )
    raw = session.run(np.zeros((1, 3, 32, 32), np.float32)).boxes_xyxy
    assert raw.min() < 0 or raw.max() > 1, (
        "the model's own boxes leave the image, or the test shows nothing"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["scores", "boxes"])
def test_what_is_not_finite_is_refused_before_it_is_cut(bad: float, where: str) -> None:
    scores = np.array([0.5], np.float32)
    boxes = np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)
    (scores if where == "scores" else boxes)[..., 0] = bad
    with pytest.raises(InputError, match="not finite"):
        detections_in_pixels(4, (10, 20), scores, np.array([0]), boxes, None)


def test_empty_slots_are_no_detections() -> None:
    boxes = np.array([[0, 0, 2, 0.5], [0, 0, 0.5, 0.5]], np.float32)
    found = detections_in_pixels(
        4, (10, 20), np.array([0.5, 0], np.float32), np.array([1, 0]), boxes, None
    )
    assert found.boxes_xyxy.tolist() == [[0, 0, 20, 5]] and found.labels.tolist() == [1]
