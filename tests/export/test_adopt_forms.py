"""The two objects of one scene come back at their places with their names, whichever exporter wrote
the file; what is no detector is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from samples_adopt import (
    HEIGHT,
    KINDS,
    OBJECTS,
    PETS,
    WIDTH,
    case,
    chosen,
    found_on,
    padded_rows,
    pair,
    queries,
    relative,
    scene,
)
from samples_exported import detector, ultralytics

from rfdetr_repro.bench.accuracy import run_on
from rfdetr_repro.export.adopt.adoption import BOXES, CLASSES, FORMS, Categories, adopt
from rfdetr_repro.export.half import half_artifact
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.resize_rules import ANTIALIASED, LETTERBOX, PLAIN, PLAIN_LETTERBOX


@pytest.mark.parametrize("name", KINDS)
def test_the_two_objects_come_back(name: str, tmp_path: Path) -> None:
    of = KINDS[name]
    path = detector(tmp_path / "m.onnx", of.outputs, **of.file)
    artifact, boxes, ids = found_on(path, tmp_path, of)
    assert artifact.manifest.adoption["form"] == of.form
    order = np.argsort(boxes[:, 0])
    assert [ids[index] for index in order] == list(of.ids)
    np.testing.assert_allclose(boxes[order], OBJECTS, atol=0.05)
    known = dict(zip(*of.categories, strict=True))
    named = dict(zip(artifact.manifest.category_ids, artifact.manifest.class_names, strict=True))
    assert all(named[number] == name for number, name in known.items())


def test_orders_that_both_make_boxes_are_told_apart_by_labelled_objects(tmp_path: Path) -> None:
    """Corners in a file whose form usually has centres: neither leaves the picture."""
    of = case(pair(("boxes", "logits"), queries(relative(OBJECTS), 2)), "detr")
    path = detector(tmp_path / "m.onnx", of.outputs)
    artifact, boxes, _ = found_on(path, tmp_path, of)
    assert "xyxy" in artifact.manifest.adoption["boxes"]
    np.testing.assert_allclose(boxes[np.argsort(boxes[:, 0])], OBJECTS, atol=0.05)


REFUSED = {
    "pose": (ultralytics("pose", "Pose", kpt_shape="[17, 3]"), "task=pose.*keypoints"),
    "oriented": (ultralytics("obb", "OBB"), "task=obb.*oriented boxes"),
    "classifier": (ultralytics("classify", "Classify"), "task=classify"),
    "pose without metadata": ({}, "are not scores in 0..1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_detector_is_refused_by_its_task(name: str, tmp_path: Path) -> None:
    metadata, told = REFUSED[name]
    raw = np.zeros((1, 56, 2100), np.float32)
    raw[0, 5:] = 300  # pixels of keypoints
    path = detector(tmp_path / "m.onnx", {"output0": raw}, metadata=metadata)
    with pytest.raises(InputError, match=told):
        adopt(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("form", ["rows", "decoded", "detr", "yolo"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_called_so(form: str, bad: float, tmp_path: Path) -> None:
    outputs = {
        "rows": {"output0": padded_rows(OBJECTS, scores=(bad, 0.5))},
        "decoded": chosen(OBJECTS) | {"scores": np.full((1, 300), bad, np.float32)},
        "detr": pair(
            ("pred_boxes", "logits"),
            (queries(OBJECTS, 3)[0], np.full((1, 100, 3), bad, np.float32)),
        ),
        "yolo": {"output0": np.full((1, 6, 2100), bad, np.float32)},
    }[form]
    with pytest.raises(InputError, match="not finite"):
        adopt(detector(tmp_path / "m.onnx", outputs), tmp_path / "out.onnx")


def test_a_class_map_without_proof_is_asked_for(tmp_path: Path) -> None:
    """Classes 1 and 2 of 4, three categories 1, 2, 3: both ways are possible, and no object
    tells.
    """
    three = Categories((1, 2, 3), ("cat", "dog", "cow"))
    values = pair(("dets", "labels"), queries(relative(OBJECTS, "cxcywh"), 4, used=(1, 2)))
    path = detector(tmp_path / "m.onnx", values, name="input")
    with pytest.raises(InputError, match="cannot be proved.*--classes order.*--classes ids"):
        adopt(path, tmp_path / "out.onnx", categories=three)
    for said, ids in (("order", [2, 3]), ("ids", [1, 2]), ("background-first", [1, 2])):
        artifact = adopt(path, tmp_path / "out.onnx", categories=three, classes=said)
        assert [artifact.manifest.category_ids[slot] for slot in (1, 2)] == ids
        assert "as asked" in artifact.manifest.adoption["classes"]
    _, _, ids = found_on(path, tmp_path, case(values, "detr", categories=three))
    assert sorted(ids) == [1, 2]  # four pictures with labelled objects prove it


def test_names_of_another_data_set_are_refused(tmp_path: Path) -> None:
    path = detector(
        tmp_path / "m.onnx",
        {"output0": padded_rows(OBJECTS)},
        metadata=ultralytics(names=("apple", "pear")),
    )
    with pytest.raises(
        InputError, match="names 2 classes .apple, pear.*without 2 of the data set .cat, dog"
    ):
        adopt(path, tmp_path / "out.onnx", categories=PETS, pictures=scene())
    assert adopt(
        path, tmp_path / "out.onnx", categories=PETS, classes="order"
    ).manifest.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("metadata", "resize"),
    [(ultralytics(), "letterbox"), (ultralytics(head="RTDETRDecoder"), "stretch"), ({}, "stretch")],
)
def test_the_resize_is_the_exporters(metadata: dict[str, str], resize: str, tmp_path: Path) -> None:
    adopted = adopt(
        detector(tmp_path / "m.onnx", {"output0": padded_rows(OBJECTS)}, metadata=metadata),
        tmp_path / "out.onnx",
    )
    assert adopted.manifest.adoption["resize"].startswith(resize)
    assert ("assumed" in adopted.manifest.adoption["resize"]) is (not metadata)
    assert ("aspect ratio kept" in adopted.manifest.resize) is (resize == "letterbox")


@pytest.mark.parametrize(
    ("metadata", "said", "expected"),
    [
        (ultralytics(), {}, PLAIN_LETTERBOX),
        (ultralytics(head="RTDETRDecoder"), {}, PLAIN),
        (ultralytics(), {"antialias": True}, LETTERBOX),
        ({"rfdetr_notes": "mine"}, {}, PLAIN),
        ({}, {}, ANTIALIASED),
        ({}, {"antialias": False}, PLAIN),
        ({}, {"antialias": False, "resize": "letterbox"}, PLAIN_LETTERBOX),
    ],
)
def test_antialiasing_is_the_exporters_or_as_asked(
    metadata: dict[str, str], said: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """Ultralytics' letterbox is OpenCV's bilinear, which does not average; what is taken is in the
    manifest and printed.
    """
    path = detector(tmp_path / "m.onnx", {"output0": padded_rows(OBJECTS)}, metadata=metadata)
    manifest = adopt(path, tmp_path / "out.onnx", **said).manifest
    assert manifest.resize == expected
    assert (
        f"{'without' if 'not antialiased' in expected else 'with'} antialiasing"
        in manifest.adoption["resize"]
    )


@pytest.mark.parametrize("inside", [True, False])
def test_upstreams_export_is_normalised_outside_unless_the_file_does_so(
    inside: bool, tmp_path: Path
) -> None:
    mean = {"mean": np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)}
    before = [helper.make_node("Sub", ["input", "mean"], ["centred"])] if inside else []
    path = detector(
        tmp_path / "m.onnx",
        pair(("dets", "labels"), queries(relative(OBJECTS, "cxcywh"), 3)),
        name="input",
        before=before,
        constants=mean if inside else {},
        seen="centred" if inside else "",
    )
    adopted = adopt(path, tmp_path / "out.onnx")
    assert adopted.manifest.adoption["normalisation"].startswith("none" if inside else "imagenet")
    assert (
        adopt(path, tmp_path / "out.onnx", normalise="none").manifest.adoption["normalisation"]
        == "none (as asked)"
    )


def test_the_pixels_a_uint8_model_sees_are_the_pictures_own(tmp_path: Path) -> None:
    """The brightest byte comes out as a score: 230 of 255, not 0.9 cut to 0."""
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=1),
        helper.make_node("ReduceMax", ["numbers"], ["most"], keepdims=0),
        helper.make_node("Div", ["most", "whole"], ["share"]),
        helper.make_node("Mul", ["share", "ones"], ["scores"]),
        helper.make_node("Identity", ["fixed"], ["boxes"]),
        helper.make_node("Identity", ["none"], ["labels"]),
    ]
    constants = {
        "whole": np.float32(255),
        "ones": np.ones((1, 1), np.float32),
        "none": np.zeros((1, 1), np.int64),
        "fixed": np.float32([[[8, 8, 32, 24]]]),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", 2, [1, 48, 64, 3])],
        [
            helper.make_tensor_value_info(name, kind, [1, 1] + [4] * (name == "boxes"))
            for name, kind in (("scores", 1), ("boxes", 1), ("labels", 7))
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    artifact = adopt(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert (
        artifact.manifest.inputs[0].shape == (1, 3, 48, 64)
        and "uint8 NHWC" in artifact.manifest.adoption["input"]
    )
    found = run_on(OrtSession(artifact, threads=1), scene()[0]().pixels)
    np.testing.assert_allclose(found.scores, [[230 / 255]], atol=1e-6)


def test_external_data_are_inside_the_artifact_and_hashed(tmp_path: Path) -> None:
    """One changed weight in the other file gives another artifact; a lost file is one line."""
    plain = detector(tmp_path / "plain.onnx", {"output0": padded_rows(OBJECTS)})
    apart = tmp_path / "apart.onnx"
    onnx.save_model(
        onnx.load(plain),
        apart,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=100,
    )
    one = adopt(apart, tmp_path / "one.onnx")
    assert one.sha256 == adopt(plain, tmp_path / "same.onnx").sha256
    assert not any(constant.external_data for constant in onnx.load(one.path).graph.initializer)
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[:4] = np.float32(9).tobytes()
    weights.write_bytes(content)
    two = adopt(apart, tmp_path / "two.onnx")
    assert two.sha256 != one.sha256
    keys = ("adopted_from_sha256", "external_data_sha256")
    first = [one.manifest.packages[key] for key in keys]
    second = [two.manifest.packages[key] for key in keys]
    assert first[0] == second[0] and first[1] != second[1]
    weights.unlink()
    with pytest.raises(InputError, match="weights are in weights.bin, which is missing"):
        adopt(apart, tmp_path / "three.onnx")
    assert not (tmp_path / "three.onnx").exists()


def test_masks_of_end_to_end_rows(tmp_path: Path) -> None:
    """YOLO26's segmentation: 6 + P numbers a row, prototypes beside them."""
    rows = np.concatenate([padded_rows(OBJECTS), np.zeros((1, 300, 3), np.float32)], 2)
    rows[0, :2, 6:] = [[1, 0, 0], [0, 2, 0]]
    protos = np.random.default_rng(0).normal(size=(1, 3, 12, 16)).astype(np.float32)
    path = detector(
        tmp_path / "m.onnx",
        {"output0": rows, "output1": protos},
        metadata=ultralytics("segment", end2end="True"),
    )
    artifact = adopt(path, tmp_path / "out.onnx", resize="stretch")
    assert (
        artifact.manifest.adoption["form"] == "rows-seg"
        and artifact.manifest.model.task == "segment"
    )
    masks = OrtSession(artifact, threads=1).run(np.zeros((1, 3, 48, 64), np.float32)).masks
    inside = np.zeros((12, 16), bool)
    inside[2:6, 2:8] = True  # 8 to 32 of 64 px wide, 8 to 24 of 48 px high, in cells of 4 px
    expected = np.where(inside, protos[0, 0], -np.abs(protos[0, 0]))
    np.testing.assert_allclose(masks[0, 0], expected, atol=1e-6)
    inside = np.zeros((12, 16), bool)
    inside[5:10, 10:14] = True
    expected = 2 * np.where(inside, protos[0, 1], -np.abs(protos[0, 1]))
    np.testing.assert_allclose(masks[0, 1], expected, atol=1e-6)


def test_a_box_far_outside_the_input_is_no_box(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", chosen(OBJECTS * 20))
    with pytest.raises(
        InputError,
        match="boxes such as 800 400 1120 800 in an input of 64x48 px fit no known order.*--boxes",
    ):
        adopt(path, tmp_path / "out.onnx")


def test_a_half_precision_file_is_called_so(tmp_path: Path) -> None:
    outputs = {"output0": padded_rows(OBJECTS).astype(np.float16)}
    manifest = adopt(
        detector(tmp_path / "m.onnx", outputs, dtype="float16"), tmp_path / "out.onnx"
    ).manifest
    assert manifest.precision == "fp16" and manifest.params == outputs["output0"].size


def test_the_command_lists_the_same_choices() -> None:
    from rfdetr_repro.bench.command import wishes

    assert (wishes.FORMS, wishes.BOXES, wishes.CLASSES) == (FORMS, BOXES, CLASSES)


@pytest.mark.parametrize("order", [("scores", "labels", "boxes"), ("boxes", "labels", "scores")])
def test_detections_come_out_best_first_and_empty_places_have_a_label(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    values = chosen(relative(OBJECTS))
    values["scores"][0, :2] = 0.6, 0.9
    values["labels"][0, 2:] = -1
    found = OrtSession(
        adopt(
            detector(tmp_path / "m.onnx", {key: values[key] for key in order}),
            tmp_path / "out.onnx",
        ),
        1,
    )
    seen = found.run(np.zeros((1, 3, HEIGHT, WIDTH), np.float32))
    np.testing.assert_allclose(seen.scores[0, :3], [0.9, 0.6, 0], atol=1e-6)
    assert seen.labels[0, :2].tolist() == [1, 0] and seen.labels.min() == 0


def test_keypoints_are_refused_by_the_outputs_name(tmp_path: Path) -> None:
    values = pair(("dets", "labels"), queries(relative(OBJECTS), 2)) | {
        "keypoints": np.zeros((1, 100, 17, 3), np.float32)
    }
    with pytest.raises(InputError, match="keypoints holds keypoints"):
        adopt(detector(tmp_path / "m.onnx", values, name="input"), tmp_path / "out.onnx")


def test_suppression_survives_half_precision(tmp_path: Path) -> None:
    """The operator is float32 by ONNX's own definition: casts stand around it, and the same boxes
    are kept.
    """
    of = KINDS["YOLOv8 raw"]
    wide, boxes, ids = found_on(detector(tmp_path / "m.onnx", of.outputs, **of.file), tmp_path, of)
    half = half_artifact(wide, tmp_path / "half.onnx")
    found = run_on(OrtSession(half, threads=1), scene()[0]().pixels)
    sure = found.scores[0] > 0.5
    assert [half.manifest.category_ids[label] for label in found.labels[0][sure]] == ids
    np.testing.assert_allclose(
        found.boxes_xyxy[0][sure] * [WIDTH, HEIGHT, WIDTH, HEIGHT], boxes, atol=0.2
    )
    assert half.manifest.adoption == wide.manifest.adoption


def test_what_is_no_tensor_is_one_line(tmp_path: Path) -> None:
    def written(inputs: list[Any], outputs: list[Any]) -> Path:
        nodes = [
            helper.make_node("SequenceConstruct", ["images"], ["list"]),
            helper.make_node("Identity", ["images"], ["plain"]),
        ]
        graph = helper.make_graph(nodes, "g", inputs, outputs)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
            tmp_path / "m.onnx",
        )
        return tmp_path / "m.onnx"

    image = helper.make_tensor_value_info("images", 1, [1, 3, 48, 64])
    text = helper.make_tensor_value_info("images", 8, [1])
    listed = helper.make_tensor_sequence_value_info("list", 1, None)
    bare = onnx.ValueInfoProto(name="images")
    for inputs, outputs in (
        ([image], [listed]),
        ([text], [text]),
        ([bare], [listed]),
        ([], [listed]),
    ):
        with pytest.raises(InputError):
            adopt(written(inputs, outputs), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
