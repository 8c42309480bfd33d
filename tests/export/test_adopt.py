"""Other people's ONNX files: the same detections as their own post-processing, and one line for
what is no detector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples_coco import random_document, write_folder
from samples_export import ARCH, CATEGORY_IDS, NAMES, images, meta, tiny_detector
from samples_exported import detector

from rfdetr_repro.bench.command.run import FORMS, NORMALISE, main
from rfdetr_repro.bench.suppression import suppression_ms
from rfdetr_repro.export.adopt import adoption as module
from rfdetr_repro.export.adopt.adoption import Categories, adopt
from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.onnx.nms import Nms
from rfdetr_repro.export.onnx.shapes import multiply_adds
from rfdetr_repro.export_command import main as export_main
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, run_main

OURS = Categories(CATEGORY_IDS, NAMES)


def upstream_file(folder: Path) -> Path:
    """As upstream exports: a normalised input, boxes, logits and masks; the manifest is taken
    away.
    """
    artifact = export_onnx(
        tiny_detector().slice(ARCH), folder / "upstream.onnx", meta=meta(), contract="upstream"
    )
    artifact.path.with_suffix(".json").unlink()
    return artifact.path


def test_a_raw_detr_becomes_what_our_own_export_is(tmp_path: Path) -> None:
    """Normalisation, sigmoid, choice and corners added to the file: equal to the export that has
    them from the start.
    """
    ours = export_onnx(tiny_detector().slice(ARCH), tmp_path / "ours.onnx", meta=meta())
    adopted = adopt(
        upstream_file(tmp_path), tmp_path / "adopted.onnx", categories=OURS, normalise="imagenet"
    )
    batch = images(1)
    expected = OrtSession(ours).run(batch)
    found = OrtSession(load_artifact(adopted.path)).run(batch)
    assert np.array_equal(found.labels, expected.labels)
    for name in ("scores", "boxes_xyxy", "masks"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5)
    assert (
        adopted.manifest.model.task == "segment" and adopted.manifest.category_ids == CATEGORY_IDS
    )
    # the positional embeddings and ours of folded weights are constants, too: parameters are
    # counted from the file
    assert adopted.manifest.flops == pytest.approx(ours.manifest.flops, rel=0.01)


def saved(
    path: Path,
    nodes: list[Any],
    outputs: dict[str, list[Any]],
    constants: dict[str, Any] | None = None,
    *,
    image: list[Any] | None = None,
    opset: int = 17,
    domain: str = "",
) -> Path:
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in outputs.items()
    ]
    source = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, image or [1, 3, 32, 64])
    fixed = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "g", [source], tensors, fixed),
            opset_imports=opsets,
            ir_version=8,
        ),
        path,
    )
    return path


ROWS = np.float32(
    [
        [
            [8, 4, 16, 8, 0.3, 1],
            [0, 0, 64, 32, 0.9, 0],
            [32, 16, 48, 24, 0.5, 2],
            [1, 1, 2, 2, 0.0, 0],
        ]
    ]
)


def rows_file(path: Path, rows: np.ndarray = ROWS) -> Path:
    """A detector of constant rows that depend on the image by nothing but a zero."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["out"]),
    ]
    return saved(path, nodes, {"out": list(rows.shape)}, {"rows": rows, "zero": np.float32([0])})


def test_rows_of_a_detector_with_its_own_choice(tmp_path: Path) -> None:
    adopted = adopt(
        rows_file(tmp_path / "rows.onnx"), tmp_path / "out" / "rows.onnx", categories=OURS
    )
    found = OrtSession(adopted).run(np.zeros((1, 3, 32, 64), np.float32))
    np.testing.assert_allclose(found.scores, [[0.9, 0.5, 0.3, 0]])
    assert found.labels.tolist() == [[0, 2, 1, 0]] and found.masks is None
    np.testing.assert_allclose(found.boxes_xyxy[0, :2], [[0, 0, 1, 1], [0.5, 0.5, 0.75, 0.75]])


def test_classes_are_the_categories_or_their_ids(tmp_path: Path) -> None:
    def classes(
        count: int, categories: Categories | None
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        nodes = [
            helper.make_node("Identity", ["b"], ["boxes"]),
            helper.make_node("Identity", ["l"], ["logits"]),
        ]
        constants = {"b": np.zeros((1, 5, 4), np.float32), "l": np.zeros((1, 5, count), np.float32)}
        path = saved(
            tmp_path / f"{count}.onnx",
            nodes,
            {"boxes": [1, 5, 4], "logits": [1, 5, count]},
            constants,
        )
        manifest = adopt(path, tmp_path / "out.onnx", categories=categories).manifest
        return manifest.category_ids, manifest.class_names

    assert classes(3, OURS) == (CATEGORY_IDS, NAMES)
    ids, names = classes(91, OURS)
    assert ids == tuple(range(91)) and (names[3], names[17], names[90], names[4]) == (
        *NAMES,
        "class 4",
    )
    assert classes(2, None) == ((0, 1), ("class 0", "class 1"))
    with pytest.raises(InputError, match="2 classes, the data set 3 up to id 90"):
        classes(2, OURS)


def test_multiply_adds_of_every_product(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "Conv", ["pixels", "w"], ["a"], strides=[2, 2], kernel_shape=[2, 2], group=1
        ),
        helper.make_node("ConvTranspose", ["a", "u"], ["b"], strides=[2, 2], kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("MatMul", ["c", "m"], ["d"]),
        helper.make_node("Reshape", ["d", "two"], ["e"]),
        helper.make_node("Gemm", ["e", "g"], ["y"], transA=1),
    ]
    constants = {
        "w": np.zeros((8, 3, 2, 2), np.float32),
        "u": np.zeros((8, 5, 2, 2), np.float32),
        "flat": np.array([1, 5, 32 * 64]),
        "m": np.zeros((2048, 7), np.float32),
        "two": np.array([5, 7]),
        "g": np.zeros((5, 9), np.float32),
    }
    model = onnx.shape_inference.infer_shapes(
        onnx.load(saved(tmp_path / "m.onnx", nodes, {"y": [7, 9]}, constants))
    )
    conv = 8 * 16 * 32 * 12
    transposed = 8 * 16 * 32 * 20
    matmul = 5 * 7 * 2048
    gemm = 7 * 9 * 5
    assert multiply_adds(model) == conv + transposed + matmul + gemm


def broken(path: Path, case: str) -> Path:
    relu = [helper.make_node("Relu", ["pixels"], ["y"])]
    if case == "not ONNX":
        path.write_bytes(b"nonsense")
        return path
    if case == "dynamic":
        return saved(path, relu, {"y": [1, 3, "h", 64]}, image=[1, 3, "h", 64])
    if case in SIZES_OF_NOTHING:
        model = onnx.load(saved(path, relu, {"y": [1, 3, "h", 64]}, image=[1, 3, "h", 64]))
        model.metadata_props.add(key="imgsz", value=case)
        onnx.save(model, path)
        return path
    if case == "custom operator":
        return saved(
            path,
            [helper.make_node("Nms", ["pixels"], ["y"], domain="acme")],
            {"y": [1, 5, 6]},
            domain="acme",
        )
    if case == "old":
        return saved(path, relu, {"y": [1, 3, 32, 64]}, opset=11)
    if case == "batch of 2":
        return saved(path, relu, {"y": [2, 3, 32, 64]}, image=[2, 3, 32, 64])
    return saved(path, relu, {"y": [1, 3, 32, 64]})  # an image is no detection


SIZES_OF_NOTHING = ("[null]", "['a', 'b']", "[1e400, 64]", "[[64], [64]]", "-64", "True")
BROKEN = {
    "not ONNX": "not an ONNX model",
    "dynamic": "give the size with --shape",
    "custom operator": "operators of acme",
    "old": "opset 11",
    "batch of 2": "needs a batch of 2",
    "no detector": "match no known form",
    **dict.fromkeys(SIZES_OF_NOTHING, "give the size with --shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_detector_is_refused_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--onnx",
        str(broken(tmp_path / "m.onnx", case)),
        "--out",
        str(tmp_path / "store.jsonl"),
    ]
    assert run_main(main, arguments) == 2
    error = capsys.readouterr().err
    assert BROKEN[case] in error and error.count("\n") == 1
    assert (
        not (tmp_path / "adopted" / "m.onnx").exists() and not (tmp_path / "store.jsonl").exists()
    )


def test_a_wrong_form_is_refused(tmp_path: Path) -> None:
    for form, told in (("detr", "no boxes"), ("decoded", "are not scores"), ("other", "unknown")):
        with pytest.raises(InputError, match=told):
            adopt(rows_file(tmp_path / "rows.onnx"), tmp_path / "out.onnx", form=form)
    assert FORMS == module.FORMS and NORMALISE == module.NORMALISE


def test_bench_measures_anybodys_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracy and latency of one file, whose SHA-256 is in the Record."""
    data = write_folder(tmp_path / "data", random_document(0), "val")
    arguments = [
        "--onnx",
        str(rows_file(tmp_path / "rows.onnx")),
        "--data",
        str(data),
        "--split",
        "val",
        "--samples",
        "5",
        "--threads",
        "1",
        "--protocol",
        "sustained",
        "--out",
        str(tmp_path / "store.jsonl"),
    ]
    code = run_main(main, arguments)
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "has no manifest: adopted as" in told.out
    wrong = np.where(np.arange(6) == 5, np.float32(7), ROWS)  # label 7 of three
    path = rows_file(tmp_path / "wrong.onnx", wrong.astype(np.float32))
    assert run_main(main, ["--onnx", str(path), *arguments[2:]]) == 2
    assert "none of the classes used on pictures (7)" in capsys.readouterr().err


def test_the_added_nodes_run_in_order(tmp_path: Path) -> None:
    """Normalisation comes ahead of every reader, also of an input that is itself an output's
    source.
    """
    adopted = adopt(rows_file(tmp_path / "rows.onnx"), tmp_path / "out.onnx", normalise="imagenet")
    assert [node.op_type for node in onnx.load(adopted.path).graph.node[:2]] == ["Sub", "Div"]
    onnxruntime.InferenceSession(str(adopted.path), providers=["CPUExecutionProvider"])


def reshaped(path: Path, through: str) -> Path:
    """Boxes and logits whose shape passes through floats, which inference does not follow, or
    depends on the pixels.
    """
    nodes = [
        helper.make_node("Shape", ["pixels"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["as_float", "pick"], ["some"]),
        helper.make_node("ReduceSum", ["some"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["queries"], to=TensorProto.INT64),
        helper.make_node("Concat", ["one", "queries", "minus"], ["target"], axis=0),
        helper.make_node(
            "Reshape", ["pixels" if through == "floats" else "bright", "target"], ["rows"]
        ),
        helper.make_node("MatMul", ["rows", "w"], ["logits"]),
        helper.make_node("MatMul", ["rows", "v"], ["boxes"]),
    ]
    if through == "pixels":
        nodes[6:6] = [
            helper.make_node("NonZero", ["pixels"], ["where"]),
            helper.make_node("Cast", ["where"], ["bright"], to=1),
        ]
    constants = {
        "pick": np.float32([0, 0, 1, 0]),
        "one": np.array([1]),
        "minus": np.array([-1]),
        "w": np.ones((192, 3), np.float32),
        "v": np.ones((192, 4), np.float32),
    }
    return saved(path, nodes, {"boxes": ["a", "b", 4], "logits": ["c", "d", 3]}, constants)


def test_shapes_that_inference_cannot_follow_are_seen_by_running(tmp_path: Path) -> None:
    path = reshaped(tmp_path / "m.onnx", "floats")
    adopted = adopt(path, tmp_path / "out.onnx", categories=OURS, boxes="cxcywh-relative")
    assert [spec.shape for spec in adopted.manifest.outputs] == [(1, 32), (1, 32), (1, 32, 4)]
    assert adopted.manifest.flops == 2 * 32 * 192 * (3 + 4)
    OrtSession(adopted).run(np.zeros((1, 3, 32, 64), np.float32))


def test_sizes_that_depend_on_the_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="results of NonZero have no fixed size"):
        adopt(reshaped(tmp_path / "m.onnx", "pixels"), tmp_path / "out.onnx")


def test_the_record_says_what_was_taken_and_a_hint_follows_an_ap_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "data", random_document(0), "val")
    rows = ROWS.copy()
    rows[0, :, :4] = [1, 1, 3, 3]  # no object is there
    arguments = [
        "--onnx",
        str(rows_file(tmp_path / "rows.onnx", rows)),
        "--data",
        str(data),
        "--split",
        "val",
        "--samples",
        "5",
        "--threads",
        "1",
        "--protocol",
        "sustained",
        "--out",
        str(tmp_path / "store.jsonl"),
    ]
    assert run_main(main, arguments) == 0
    told = capsys.readouterr().out
    assert "hint: rows: AP 0.0. The file was read as: input 32x64" in told and "--boxes" in told
    (record,) = Store(tmp_path / "store.jsonl").read()
    assert record.adoption is not None and set(record.adoption) == {
        "input",
        "form",
        "boxes",
        "resize",
        "normalisation",
        "classes",
    }
    assert record.latency is not None and record.latency.suppression_ms is None


@pytest.mark.parametrize("kind", ["operator", "static"])
def test_the_suppressions_own_time_is_in_the_record(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More candidates cost more, by the profile's own count of nodes; the kind is part of what
    ran.
    """
    raw = np.zeros((1, 6, 3000), np.float32)
    raw[0, :4] = np.random.default_rng(0).uniform(4, 20, (4, 3000))
    raw[0, 4] = np.linspace(0.9, 0.1, 3000)
    path = detector(tmp_path / "yolo.onnx", {"output0": raw}, image=(1, 3, 32, 64))
    artifact = adopt(path, tmp_path / "a.onnx", nms=Nms(kind=kind))
    spent = suppression_ms(artifact, np.zeros((1, 3, 32, 64), np.float32), threads=1)
    assert spent is not None and spent > 0
    assert f"nms={kind}" in OrtSession(artifact, 1).artifact_id.options
    if kind == "static":
        return
    arguments = [
        "--onnx",
        str(path),
        "--samples",
        "5",
        "--threads",
        "1",
        "--builds",
        "1",
        "--protocol",
        "sustained",
    ]
    assert run_main(main, [*arguments, "--out", str(tmp_path / "store.jsonl")]) == 0
    assert "suppression ms" in capsys.readouterr().out
    (record,) = Store(tmp_path / "store.jsonl").read()
    assert (
        record.latency is not None
        and 0 < (record.latency.suppression_ms or 0) < record.latency.median_ms * 3
    )
    assert (
        record.adoption is not None
        and "operator NonMaxSuppression" in record.adoption["suppression"]
    )


def test_a_files_name_says_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, to, told in (
        ("x.engine", "onnx", "--to tensorrt"),
        ("x.onnx", "torch", "x.safetensors"),
        ("x", "onnx", "x.onnx"),
    ):
        assert (
            run_main(
                export_main,
                ["--checkpoint", __file__, "--out", str(tmp_path / out), "--to", to],
            )
            == 2
        )
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
