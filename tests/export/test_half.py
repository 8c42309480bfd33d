"""Float16 graphs: strictly typed, right where float16 is not, the same bytes for the same
weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from samples_export import ARCH, images, meta, tiny_artifact, tiny_detector
from samples_onnx import WIDTH, layer_norm, noise, written

from rfdetr_repro.bench.command.run import main as bench
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.export.float16 import to_half
from rfdetr_repro.export.fp16_audit import audit
from rfdetr_repro.export.half import audited_half, half_artifact
from rfdetr_repro.export.half_command import main
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.runtime.agreement import Tolerance, check_against
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, run_main

CLOSE = Tolerance(box=2e-3, score=2e-3, mask_logit=2e-2, matched=0.98)
HALF = TensorProto.FLOAT16
FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(
        tiny_detector().slice(ARCH),
        tmp_path_factory.mktemp("half") / "m.onnx",
        meta=meta(),
        precision="fp16",
    )


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return types | {constant.name: constant.data_type for constant in inferred.initializer}


def disagreements(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes that bind two types to one type variable of their operator."""
    types = types_of(model)
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, 17)
        bound: dict[str, set[int]] = {}
        for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
            for place, name in enumerate(names):
                if name:
                    bound.setdefault(formals[min(place, len(formals) - 1)].type_str, set()).add(
                        types[name]
                    )
        yield from (
            f"{node.name}: {variable} {sorted(kinds)}"
            for variable, kinds in bound.items()
            if len(kinds) > 1
        )


def test_every_operator_has_operands_of_one_type(half: Artifact) -> None:
    model = onnx.load(half.path)
    onnx.checker.check_model(model, full_check=True)
    assert not list(disagreements(model))
    product = next(node for node in model.graph.node if node.op_type == "Gemm")
    bias = next(
        constant for constant in model.graph.initializer if constant.name == product.input[2]
    )
    bias.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias).astype(np.float32), bias.name)
    )
    with pytest.raises(Exception, match="type"):  # one wrong weight is noticed
        onnx.checker.check_model(model, full_check=True)


def test_products_are_half_and_islands_are_named(half: Artifact) -> None:
    model = onnx.load(half.path)
    types = types_of(model)
    for node in model.graph.node:
        kinds = {types[name] for name in node.input if name and types[name] in (HALF, FLOAT)}
        if node.op_type in ("MatMul", "Gemm", "Conv", "LayerNormalization"):
            assert kinds == {HALF}, node.name
        if node.op_type in ("GridSample", "Exp", "Sin", "Cos"):
            assert kinds == {FLOAT} and node.name.startswith("float32/"), node.name
        if node.op_type != "Cast" and FLOAT in kinds:
            assert node.name.startswith("float32/"), node.name
        if node.op_type == "LayerNormalization":
            assert {a.name: a.i for a in node.attribute if a.name == "stash_type"} == {
                "stash_type": FLOAT
            }
    told = half.manifest.islands
    named = [
        node.name.split("/", 2)[1:] for node in model.graph.node if node.name.startswith("float32/")
    ]
    assert sorted(named) == sorted(
        [reason, name] for reason, names in told.items() for name in names
    )
    assert set(told) == {"boxes", "positions", "sampling", "scores", "softmax"}
    casts = sum(node.op_type == "Cast" for node in model.graph.node)
    assert casts <= 8 + 6 * ARCH.decoder_layers  # borders of islands only
    softmax = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert (
        len([node for node in softmax if "float32/" in node.name])
        == ARCH.decoder_layers
        < len(softmax)
    )


def test_outputs_and_input_stay_as_they_were(half: Artifact, tmp_path: Path) -> None:
    wide = tiny_artifact(tmp_path).manifest
    told = half.manifest
    assert (told.inputs, told.outputs, told.flops, told.params) == (
        wide.inputs,
        wide.outputs,
        wide.flops,
        wide.params,
    )
    assert (told.precision, wide.precision) == (
        "fp16",
        "fp32",
    ) and told.size_bytes < 0.75 * wide.size_bytes
    assert load_artifact(half.path).manifest == told and told.build["fp32_sha256"] == wide.sha256
    found = OrtSession(half, threads=1)
    assert found.artifact_id.precision == "fp16"
    assert [array.dtype for array in found.run(images(1))] == [
        np.float32,
        np.int64,
        np.float32,
        np.float32,
    ]


@pytest.mark.parametrize(
    "arch",
    [ARCH, Arch(32, 8, 2, 1, 3), Arch(40, 8, 1, 0, 8), Arch(32, 8, 2, 2, 8, 64)],
    ids=lambda a: a.key,
)
def test_agrees_with_pytorch(arch: Arch, tmp_path: Path) -> None:
    subnet = tiny_detector().slice(arch)
    made = export_onnx(subnet, tmp_path / "m.onnx", meta=meta(), precision="fp16")
    agreement = check_against(subnet, OrtSession(made, threads=1), images(3, *arch.input_hw), CLOSE)
    assert agreement.box > 0 and not list(disagreements(onnx.load(made.path)))


def test_equal_weights_give_equal_bytes_by_either_way(half: Artifact, tmp_path: Path) -> None:
    wide = tiny_artifact(tmp_path)
    assert (
        half_artifact(wide, tmp_path / "again.onnx").sha256
        == half.sha256
        == sha_of_export(tmp_path)
    )
    assert half_artifact(wide, tmp_path / "more.onnx", islands=["Softmax"]).sha256 != half.sha256


def sha_of_export(folder: Path) -> str:
    return export_onnx(
        tiny_detector().slice(ARCH), folder / "x" / "m.onnx", meta=meta(), precision="fp16"
    ).sha256


def test_islands_by_operator_and_by_name(tmp_path: Path) -> None:
    wide = tiny_artifact(tmp_path)
    node = next(node.name for node in onnx.load(wide.path).graph.node if node.op_type == "Gemm")
    model = onnx.load(half_artifact(wide, tmp_path / "h.onnx", islands=["Softmax", node]).path)
    assert not list(disagreements(model))
    kept = [node.name for node in model.graph.node if node.name.startswith("float32/asked/")]
    assert f"float32/asked/{node}" in kept
    assert not [
        name
        for name in kept
        if name.split("/")[-1].split("_")[0] in ("matmul", "conv", "layernormalization")
    ]
    assert all(n.name.startswith("float32/") for n in model.graph.node if n.op_type == "Softmax")
    with pytest.raises(InputError, match="no node or operator 'nothing'"):
        half_artifact(wide, tmp_path / "no.onnx", islands=["nothing"])
    assert not (tmp_path / "no.onnx").exists()


def after_a_product(path: Path) -> onnx.ModelProto:
    """The graph at ``path`` with a matrix product ahead of it, whose result a conversion makes
    float16.
    """
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["product" if name == "x" else name for name in node.input]
    model.graph.node.insert(
        0, helper.make_node("MatMul", ["x", "eye"], ["product"], name="/product")
    )
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "eye")
    )
    onnx.save(model, path)
    return model


def test_the_audit_saves_the_written_out_layer_norm(tmp_path: Path) -> None:
    """Opset 16, variance 90,000: float16 squares are infinite and the result is 0; with the audit's
    islands it is right.
    """
    path = layer_norm(tmp_path / "16.onnx", 16)
    wide = after_a_product(path)
    feed = noise(300)[0]
    found = audit(path, noise(300)).islands
    expected = ReferenceEvaluator(wide).run(None, feed)[0]
    with np.errstate(over="ignore"):
        collapsed = ReferenceEvaluator(to_half(wide).model).run(None, feed)[0]
    kept = ReferenceEvaluator(to_half(wide, found).model).run(None, feed)[0]
    assert not collapsed.any() and np.abs(expected).max() > 1
    np.testing.assert_allclose(kept, expected, atol=5e-3)
    native = after_a_product(layer_norm(tmp_path / "17.onnx", 17))
    assert to_half(native).islands == {}


def scaled_detector() -> object:
    """Equal to the tiny detector but for one wide layer that works at 30,000 times the size and is
    scaled back after it.
    """
    detector = tiny_detector()
    block = detector.backbone.blocks[1]
    block.fc1.gelu = False
    block.fc1.weight.data *= 3e4
    block.fc1.bias.data *= 3e4
    block.fc2.weight.data /= 3e4
    # without decoder layers: the reference evaluator has no bilinear GridSample
    return detector.slice(Arch(32, 8, 1, 0, 8))


def test_an_overflowing_detector_is_kept_right_by_the_audit(tmp_path: Path) -> None:
    subnet = scaled_detector()
    wide = export_onnx(subnet, tmp_path / "wide.onnx", meta=meta())  # type: ignore[arg-type]
    kept = audited_half(wide, tmp_path / "kept.onnx")
    assert (
        "gemm" in " ".join(kept.manifest.islands["asked"])
        and "noise: " in kept.manifest.build["audit"]
    )
    check_against(subnet, OrtSession(kept, threads=1), images(), CLOSE)  # type: ignore[arg-type]
    # ONNX Runtime on a CPU computes it in float32 and shows nothing
    naive = half_artifact(wide, tmp_path / "naive.onnx")
    with np.errstate(all="ignore"):
        collapsed = ReferenceEvaluator(str(naive.path)).run(
            ["scores", "boxes"], {"images": images(1)}
        )
    assert not all(np.isfinite(values).all() for values in collapsed)


def test_a_conversion_is_a_function_of_the_graph(tmp_path: Path) -> None:
    """The float32 graph stays as it was, nothing is written, and the same graph gives the same
    bytes and report.
    """
    wide = tiny_artifact(tmp_path)
    model = onnx.load(wide.path)
    before = model.SerializeToString(deterministic=True)
    files = sorted(tmp_path.rglob("*"))
    first, again = (to_half(model, ["Softmax"]) for _ in range(2))
    assert model.SerializeToString(deterministic=True) == before
    content, told = first.file(wide.manifest)
    assert (content, told) == again.file(wide.manifest)
    assert sorted(tmp_path.rglob("*")) == files
    assert told.sha256 == hashlib.sha256(content).hexdigest() and told.size_bytes == len(content)
    made = half_artifact(wide, tmp_path / "h.onnx", islands=["Softmax"])
    assert made.path.read_bytes() == content and made.manifest == told


def test_constants_that_float16_does_not_have(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "tiny"], ["a"], name="eps"),
        helper.make_node("Div", ["a", "a"], ["b"], name="div"),
        helper.make_node("Mul", ["b", "huge"], ["c"], name="big"),
        helper.make_node("Mul", ["c", "half"], ["y"], name="plain"),
    ]
    path = written(tmp_path / "m.onnx", nodes, {"tiny": 1e-9, "huge": 1e6, "half": 0.5}, [1, WIDTH])
    made = to_half(onnx.load(path))
    # what reads float32 alone stays with it
    assert made.islands == {"range": ("eps", "div", "big", "plain")}
    assert np.isfinite(
        ReferenceEvaluator(made.model).run(None, {"x": np.zeros((1, WIDTH), np.float32)})[0]
    ).all()


def refused(folder: Path, case: str) -> Path:
    wide = tiny_artifact(folder)
    if case == "float16 already":
        return half_artifact(wide, folder / "h.onnx").path
    model = onnx.load(wide.path)
    if case == "custom operator":
        model.graph.node[0].domain = "somebody"
    elif case == "sub-graph":
        branch = helper.make_graph([], "b", [], [])
        model.graph.node[0].attribute.append(helper.make_attribute("body", branch))
    content = model.SerializeToString()
    manifest = wide.path.with_suffix(".json")
    manifest.write_text(
        manifest.read_text().replace(wide.sha256, hashlib.sha256(content).hexdigest())
    )
    wide.path.write_bytes(content if case != "corrupt" else content[:-40])
    return wide.path


@pytest.mark.parametrize("case", ["float16 already", "custom operator", "sub-graph", "corrupt"])
def test_bad_input_is_one_line_and_writes_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = refused(tmp_path, case)
    assert run_main(main, [str(path), "--out", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ")
        and error.count("\n") == 1
        and not (tmp_path / "out.onnx").exists()
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = tiny_artifact(tmp_path)
    assert run_main(main, [str(wide.path), "--out", str(tmp_path / "h.onnx")]) == 0
    told = capsys.readouterr().out
    assert (
        "float32 islands: 30 boxes" in told
        and "audit: 2 inputs of noise: 0 nodes out of range" in told
    )
    assert load_artifact(tmp_path / "h.onnx").manifest.precision == "fp16"


def test_the_benchmark_audits_what_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = export_onnx(scaled_detector(), tmp_path / "wide.onnx", meta=meta())  # type: ignore[arg-type]
    few = [
        "--samples",
        "3",
        "--buffer-ms",
        "0",
        "--builds",
        "1",
        "--out",
        str(tmp_path / "out.jsonl"),
    ]
    assert run_main(bench, ["--onnx", str(wide.path), "--precision", "fp16", *few]) == 0, (
        capsys.readouterr().err
    )
    (made,) = (tmp_path / "fp16").glob("*.onnx")
    kept = load_artifact(made).manifest
    assert "gemm" in " ".join(kept.islands["asked"]) and "noise: " in kept.build["audit"]
