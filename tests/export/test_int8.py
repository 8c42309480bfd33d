"""INT8: which products, which scales, which stay in float32 and why, and the gate of AP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from samples_coco import random_document, write_folder
from samples_export import ARCH, images, meta, tiny_artifact, tiny_detector, tiny_weights
from samples_onnx import runs, written

from rfdetr_repro import export_command
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.export.artifact import Artifact, load_artifact, write_artifact
from rfdetr_repro.export.int8.attention import attention_products
from rfdetr_repro.export.int8.audit import Audit, Detected, Switched, audit, disagreement
from rfdetr_repro.export.int8.calibration import calibration_set
from rfdetr_repro.export.int8.conversion import Gate, Wishes, int8_artifact, summary
from rfdetr_repro.export.int8.kernels import integer_kernels
from rfdetr_repro.export.int8.products import Product, asked_for, prepared, products_of
from rfdetr_repro.export.int8.quantizer import Quantizer
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main
from rfdetr_repro.spec.files import sha256_file

RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder, random_document(0, images=6))
    return write_folder(folder, random_document(1, images=4), "val")


@pytest.fixture(scope="module")
def train(data: Path) -> CocoSplit:
    return read_split(data, "train")


def numbers(artifact: Artifact) -> list[Product]:
    return products_of(prepared(artifact.path), artifact.path)


def quantised(path: Path, feed: np.ndarray, names: list[str] | None = None) -> onnx.ModelProto:
    model = prepared(path)
    quantizer = Quantizer(model, path)
    quantizer.calibrate([{"x": feed}])
    chosen = [one.name for one in products_of(model, path) if not one.why_float]
    return quantizer.quantised(chosen if names is None else names)


def weights_of(model: onnx.ModelProto) -> list[np.ndarray]:
    arrays = [numpy_helper.to_array(constant) for constant in model.graph.initializer]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]


# -- which products, and what they cost ------------------------------------------------------------


@pytest.mark.parametrize("masks", [False, True])
def test_the_operations_are_those_that_the_exporter_counts(tmp_path: Path, masks: bool) -> None:
    made = tiny_artifact(tmp_path, tiny_detector(masks=masks))
    assert sum(product.flops for product in numbers(made)) == made.manifest.flops


def test_the_operations_are_those_of_one_image(tmp_path: Path) -> None:
    subnet = tiny_detector().slice(ARCH)
    for batch in (2, "dynamic"):
        made = export_onnx(subnet, tmp_path / f"{batch}.onnx", meta=meta(), batch=batch)
        count = made.manifest.images_per_run
        found = products_of(prepared(made.path), made.path, count)
        assert sum(product.flops for product in found) == made.manifest.flops


def test_only_the_product_of_masks_stays_in_float32(artifact: Artifact) -> None:
    """Queries by pixels: a product of two activations without a Softmax."""
    products = numbers(artifact)
    assert {product.op for product in products} == {"Gemm", "Conv", "MatMul"}
    kept = [product for product in products if product.why_float]
    assert [(product.op, product.why_float) for product in kept] == [("MatMul", "two activations")]


def test_names_and_operators_can_be_asked_for(artifact: Artifact) -> None:
    model = prepared(artifact.path)
    gemm = next(node.name for node in model.graph.node if node.op_type == "Gemm")
    assert asked_for(model, [gemm]) == {gemm}
    kinds = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert asked_for(model, ["Conv"]) == kinds
    with pytest.raises(InputError, match="no node or operator 'gem_1'"):
        asked_for(model, ["gem_1"])


# -- what the quantizer writes ---------------------------------------------------------------------


def batched_product(folder: Path) -> Path:
    """y = x @ w + b with a weight (1, K, N), as exporters write a projection of a batch."""
    weight = RANDOM.normal(size=(1, 8, 5)) * np.geomspace(0.01, 10, 5)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Add", ["b", "product"], ["y"], name="sum"),
    ]
    return written(folder / "b.onnx", nodes, {"w": weight, "b": np.arange(5.0)}, [1, 6, 8])


def test_a_weight_with_leading_axes_has_a_scale_per_output_channel(tmp_path: Path) -> None:
    path = batched_product(tmp_path)
    value = RANDOM.normal(size=(1, 6, 8)).astype(np.float32)
    made = quantised(path, value)
    (weight,) = weights_of(made)
    assert weight.shape == (8, 5)
    # every channel uses its whole range, although the largest is 1000 times the smallest
    assert (np.abs(weight.astype(int)).max(axis=0) >= 63).all()
    wanted = runs(path, value)
    channels = np.abs(runs(made, value) - wanted).max(axis=(0, 1))
    # rounding errors of activations and weights, per channel: K (|w| dx / 2 + |x| dw / 2)
    array = np.abs(numpy_helper.to_array(onnx.load(path).graph.initializer[0]))[0].max(axis=0)
    step = (value.max() - value.min()) / 255
    bound = 8 * array * (step / 2 + np.abs(value).max() / 64 / 2)
    assert (channels <= bound).all()


def test_a_product_with_a_bias_runs_on_integers(tmp_path: Path) -> None:
    path = batched_product(tmp_path)
    value = RANDOM.normal(size=(1, 6, 8)).astype(np.float32)
    made = quantised(path, value)
    assert integer_kernels(made.SerializeToString()) == 1
    assert integer_kernels(path.read_bytes()) == 0
    # the same values without any optimisation, where the graph is computed as it is written
    assert runs(made, value) == pytest.approx(runs(made, value, optimised=False), abs=1e-4)


def test_weights_use_seven_bits(artifact: Artifact, train: CocoSplit) -> None:
    """The sum of two products of uint8 and int8 must fit 16 bits on processors without VNNI."""
    made = quantised_tiny(artifact, train)
    weights = weights_of(made)
    largest = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
    assert len(weights) > 10 and 60 <= largest and 2 * 255 * largest <= 2**15 - 1


def quantised_tiny(artifact: Artifact, train: CocoSplit) -> onnx.ModelProto:
    model = prepared(artifact.path)
    quantizer = Quantizer(model, artifact.path)
    quantizer.calibrate(calibration_set(train).feeds(artifact.manifest))
    return quantizer.quantised(
        [one.name for one in products_of(model, artifact.path) if not one.why_float]
    )


def test_nodes_in_float32_read_unrounded_values(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["inner"], name="first"),
        helper.make_node("MatMul", ["x", "w"], ["other"], name="second"),
        helper.make_node("Add", ["x", "inner"], ["sum"], name="residual"),
        helper.make_node("Add", ["sum", "other"], ["y"], name="last"),
    ]
    weight = RANDOM.normal(size=(8, 8))
    path = written(tmp_path / "r.onnx", nodes, {"w": weight}, [6, 8])
    value = RANDOM.normal(size=(6, 8)).astype(np.float32)
    made = quantised(path, value, ["first"])
    by_name = {node.name: node for node in made.graph.node}
    assert list(by_name["second"].input) == ["x", "w"]  # a shared weight too
    assert by_name["residual"].input[0] == "x"
    assert by_name["first"].input[0] != "x" and by_name["first"].input[1] != "w"
    difference = runs(made, value) - runs(path, value)
    assert 0 < np.abs(difference).max() < 0.3


def test_a_range_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Div", ["x", "zero"], ["endless"], name="endless"),
        helper.make_node("MatMul", ["endless", "w"], ["y"], name="product"),
    ]
    constants = {"zero": np.zeros(1), "w": RANDOM.normal(size=(8, 8))}
    path = written(tmp_path / "e.onnx", nodes, constants, [6, 8])
    with pytest.raises(InputError, match="not finite"):
        quantised(path, np.ones((6, 8), np.float32), ["product"])


def test_the_calibration_set_is_drawn_by_its_seed_and_named_by_its_pixels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_document(0, images=6))
    split = read_split(folder, "train")
    first = calibration_set(split, 3)
    assert first == replace(calibration_set(split, 3), split=split) and len(first) == 3
    assert list(first.places) == sorted(set(first.places))
    assert calibration_set(split, 3, seed=1).sha256 != first.sha256
    assert calibration_set(split, 99).places == tuple(range(6))
    picture = split.images[first.places[0]].path
    pixels = np.array(Image.open(picture))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    changed = calibration_set(read_split(folder, "train"), 3)
    assert changed.places == first.places and changed.sha256 != first.sha256


# -- the audit -------------------------------------------------------------------------------------


def detected(scores: Any, labels: Any, boxes: Any) -> Detected:
    arrays = [np.asarray(each) for each in (scores, labels, boxes)]
    return Detected(arrays[0].astype(np.float32), arrays[1], arrays[2].astype(np.float32))


TWO = detected([0.8, 0.4], [1, 2], [[0, 0, 1, 1], [0, 0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (TWO, 0.0),
        (detected([0.4, 0.8], [2, 1], TWO.boxes[::-1]), 0.0),  # in another order
        (detected([0.8, 0.4], [2, 1], TWO.boxes), 1.0),  # other labels
        (detected([0.8], [1], TWO.boxes[:1]), 0.2),  # 0.4² of 0.8² + 0.4² is missing
        (detected([0.7, 0.4], [1, 2], TWO.boxes), 0.8 * 0.1),
        (detected([0.8, 0.4], [1, 2], [[0, 0, 1, 0.5], TWO.boxes[1]]), 0.8 * 0.5),  # IoU 1/2
        (detected([0.8, 0.4], [1, 2], [[np.nan] * 4, TWO.boxes[1]]), 0.8),
    ],
)
def test_disagreement(found: Detected, wanted: float) -> None:
    assert disagreement(TWO, found) == pytest.approx(wanted, abs=1e-6)


def test_disagreement_about_nothing() -> None:
    nothing = detected([0.0], [1], [[0, 0, 1, 1]])
    assert disagreement(nothing, nothing) == 0 and disagreement(nothing, TWO) == 1


def test_the_switched_model_is_the_file(artifact: Artifact, train: CocoSplit) -> None:
    """Switched on, every product gives what it gives in the written file; switched off, what it
    gives in the float32 file.
    """
    model = prepared(artifact.path)
    products = [one for one in products_of(model, artifact.path) if not one.why_float]
    made = quantised_tiny(artifact, train)
    switched = Switched(model, made, products, artifact.path, threads=1)
    feed = {"images": images(1)}
    weighted = [one.name for one in products if one.op != "MatMul"]
    model_of = {"weights": quantised_names(artifact, train, weighted), "nothing": model}
    for names, file in ((weighted, "weights"), ([], "nothing")):
        (found,) = switched.run(feed, names)
        assert disagreement(detections(model_of[file], feed), found) < 1e-4
    # a query on the edge of two steps may be rounded to the other, so attention is compared alone
    attention = list(attention_products(model.graph))[:2]
    for name in attention:
        (found,) = switched.run(feed, [name])
        alone = detections(quantised_names(artifact, train, [name]), feed)
        assert disagreement(alone, found) < 1e-3


def quantised_names(artifact: Artifact, train: CocoSplit, names: list[str]) -> onnx.ModelProto:
    quantizer = Quantizer(prepared(artifact.path), artifact.path)
    quantizer.calibrate(calibration_set(train).feeds(artifact.manifest))
    return quantizer.quantised(names)


def detections(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> Detected:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    scores, labels, boxes = session.run(["scores", "labels", "boxes"], feed)
    return Detected(scores[0], labels[0], boxes[0])


def test_the_audit_finds_the_product_that_int8_spoils(tmp_path: Path, train: CocoSplit) -> None:
    """An activation with one huge element leaves no digits to the others."""
    detector = tiny_detector()
    block = detector.backbone.blocks[1]
    with torch.no_grad():
        block.norm2.weight[0] = 3e4
        block.fc1.weight[:, 0] /= 3e4
    made = tiny_artifact(tmp_path, detector)
    model = prepared(made.path)
    products = [one for one in products_of(model, made.path) if not one.why_float]
    file = quantised_tiny(made, train)
    switched = Switched(model, file, products, made.path, threads=1)
    feeds = list(calibration_set(train, 2).feeds(made.manifest))
    found = audit(switched, feeds)
    worst = max(found.alone, key=lambda name: found.alone[name])
    spoiled = next(
        node.name
        for node in model.graph.node
        if node.op_type == "Gemm" and node.input[1].endswith("blocks.1.fc1.weight")
    )
    assert found.images == 2 and worst == spoiled


def test_the_most_harmful_products_for_their_work_stay_in_float32() -> None:
    products = [
        Product("large", "Gemm", 900),
        Product("head", "Gemm", 10),
        Product("attention", "MatMul", 80, "two activations"),
        Product("conv", "Conv", 10),
    ]
    found = Audit({"large": 0.5, "head": 0.2, "conv": 0.0}, 1)
    assert found.sensitive(products, 0.005) == ()
    assert found.sensitive(products, 0.01) == ("head",)
    assert found.sensitive(products, 0.1) == ("head",)  # what moves nothing becomes INT8
    assert found.sensitive(products, 0.92) == ("large", "head")


# -- the file and its gate -------------------------------------------------------------------------


def calm(file: Artifact) -> dict[str, float]:
    return {"boxes": 0.5}


def test_the_file_states_what_it_is(artifact: Artifact, train: CocoSplit, tmp_path: Path) -> None:
    seen: list[str] = []

    def score(file: Artifact) -> dict[str, float]:
        seen.append(sha256_file(file.path))
        return {"boxes": 0.5}

    calibration = calibration_set(train, 4)
    made = int8_artifact(artifact, tmp_path / "m.onnx", calibration, Gate(score, "a/val"))
    assert load_artifact(made.path) == made
    # the files that were scored are the float32 file and the file that was written
    assert seen == [artifact.sha256, made.sha256]
    manifest = made.manifest
    census = manifest.quantised
    assert census is not None and manifest.precision == "int8"
    assert census.kernels == census.products_int8 + census.convolutions_int8 > 20
    assert 0.8 < census.flops_share < 1 and census.calibration_sha256 == calibration.sha256
    assert sum(manifest.census.values()) == census.products + census.convolutions
    assert manifest.build["fp32_sha256"] == artifact.sha256
    assert "AP of boxes 50.00 to 50.00 on a/val" in manifest.build["gate"]
    assert set(manifest.islands) >= {"two activations"}
    assert made.manifest.size_bytes < artifact.manifest.size_bytes
    assert "% of FLOPs" in summary(made)
    session = OrtSession(made, 1)
    assert session.artifact_id.precision == "int8"
    assert np.isfinite(session.run(images(1)).boxes_xyxy).all()


def test_the_same_images_give_the_same_bytes(
    artifact: Artifact, train: CocoSplit, tmp_path: Path
) -> None:
    made = [
        int8_artifact(artifact, tmp_path / name, calibration_set(train, 4), Gate(calm, "a/val"))
        for name in ("a.onnx", "b.onnx")
    ]
    assert made[0].sha256 == made[1].sha256
    assert made[0].manifest.to_json() == made[1].manifest.to_json()


def test_more_products_stay_in_float32_until_the_gate_is_passed(
    artifact: Artifact, train: CocoSplit, tmp_path: Path
) -> None:
    def score(file: Artifact) -> dict[str, float]:
        census = file.manifest.quantised
        return {"boxes": 0.5, "masks": 0.3 if census is None else 0.3 - 0.01 * census.flops_share}

    share = []
    for points in (1.0, 0.8):
        gate = Gate(score, "a/val", points)
        made = int8_artifact(artifact, tmp_path / "m.onnx", calibration_set(train, 4), gate)
        assert made.manifest.quantised is not None
        share.append(made.manifest.quantised.flops_share)
    assert share[1] <= 0.8 < share[0]
    assert len(made.manifest.islands["sensitive"]) > 1


def test_a_loss_beyond_the_gate_writes_nothing_and_says_the_nearest(
    artifact: Artifact, train: CocoSplit, tmp_path: Path
) -> None:
    def score(file: Artifact) -> dict[str, float]:
        census = file.manifest.quantised
        return {"boxes": 0.5 if census is None else 0.5 - 0.1 * census.flops_share}

    out = tmp_path / "m.onnx"
    with pytest.raises(StatedFailure) as failure:
        int8_artifact(artifact, out, calibration_set(train, 4), Gate(score, "a/val", 0.5))
    message = str(failure.value)
    assert "\n" not in message and "0.50 points on a/val" in message
    assert "nearest file loses 5." in message or "nearest file loses 6." in message
    assert list(tmp_path.iterdir()) == []


def test_random_weights_have_no_gate(tmp_path: Path, train: CocoSplit) -> None:
    made = tiny_artifact(tmp_path, weights="random")
    file = int8_artifact(made, tmp_path / "m.onnx", calibration_set(train, 2))
    assert file.manifest.build["gate"] == file.manifest.build["audit"] == "no: random weights"


@pytest.mark.parametrize("batch", [2, "dynamic"])
def test_files_for_several_images(batch: int | str, tmp_path: Path, train: CocoSplit) -> None:
    wide = export_onnx(
        tiny_detector().slice(ARCH), tmp_path / "wide.onnx", meta=meta(), batch=batch
    )
    made = int8_artifact(wide, tmp_path / "m.onnx", calibration_set(train, 3), Gate(calm, "a/val"))
    found = OrtSession(made, 1).run(images(2))
    assert found.scores.shape[0] == 2


def test_only_float32_files_are_quantised(
    artifact: Artifact, train: CocoSplit, tmp_path: Path
) -> None:
    made = int8_artifact(artifact, tmp_path / "m.onnx", calibration_set(train, 2), Gate(calm, "v"))
    with pytest.raises(InputError, match="not onnx int8"):
        int8_artifact(made, tmp_path / "n.onnx", calibration_set(train, 2), Gate(calm, "v"))
    every = tuple({product.op for product in numbers(artifact)})
    with pytest.raises(InputError, match="no matrix product or convolution"):
        wishes = Wishes(keep=every)
        int8_artifact(artifact, tmp_path / "n.onnx", calibration_set(train, 2), None, wishes)


def test_older_manifests_are_read(artifact: Artifact, tmp_path: Path) -> None:
    fields = json.loads(artifact.manifest.to_json())
    del fields["quantised"]
    copy = write_artifact(tmp_path / "m.onnx", artifact.path.read_bytes(), artifact.manifest)
    copy.path.with_suffix(".json").write_text(json.dumps(fields))
    assert load_artifact(copy.path).manifest == artifact.manifest


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "m.safetensors")


def exported(weights: Path, out: Path, *arguments: str) -> int:
    argv = ["--model", str(weights), "--out", str(out), "--precision", "int8", *arguments]
    return run_main(export_command.main, argv)


def test_export(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    assert exported(weights, out, "--data", str(data), "--calibration-images", "3") == 0
    printed = capsys.readouterr().out
    assert "int8: " in printed and "calibration: 3 images of" in printed
    made = load_artifact(out).manifest
    assert made.precision == "int8" and made.quantised is not None
    assert made.quantised.calibration_images == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs training images"),
        (["--data", "DATA", "--split", "test"], "test"),
        (["--data", "DATA", "--audit-images", "DATA"], "--audit-images belongs to"),
        (["--data", "DATA", "--to", "tensorrt"], "not built from INT8"),
        (["--data", "DATA", "--ap-gate", "-1"], "--ap-gate"),
        (["--data", "DATA", "--islands", "nothing"], "no node or operator 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    said: str,
    weights: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert exported(weights, tmp_path / "m.onnx", *given) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_int8_need_int8(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(weights), "--out", str(tmp_path / "m.onnx"), "--data", str(data)]
    assert run_main(export_command.main, argv) == 2
    assert "--precision int8 takes --data" in capsys.readouterr().err
