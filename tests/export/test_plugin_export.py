"""Files whose attention is one node for the TensorRT plugin: the graph is the model, other runtimes
refuse the file, and engines load the plugin that they were built with.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from samples_export import ARCH, images, meta, tiny_artifact, tiny_detector, tiny_weights
from samples_tensorrt import A10, FakeDevice, FakeTrt

from rfdetr_repro import export_command, ops
from rfdetr_repro.data.network_input import normalise
from rfdetr_repro.export import plugin
from rfdetr_repro.export.artifact import Artifact, load_artifact, write_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.plugin_reference import with_standard_operators
from rfdetr_repro.export.tensorrt import engine as module
from rfdetr_repro.export.tensorrt.engine import build_engine
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.tensorrt import TrtSession
from rfdetr_repro.spec.errors import InputError, run_main


class Attention(OpRun):
    """The plugin's node in onnx's own evaluator, by the grid_sample reference."""

    op_domain = plugin.DOMAIN

    def _run(self, *inputs: Any, level_sizes: Any = None, **_: Any) -> tuple[Any]:
        sizes = [(int(h), int(w)) for h, w in np.reshape(level_sizes, (-1, 2))]
        value, *rest = (torch.from_numpy(np.ascontiguousarray(one)) for one in inputs)
        assert all(one.dtype == torch.float32 for one in rest)
        found = ops.ms_deform_attn_fused_reference(value.float(), sizes, *rest)
        return (found.to(value.dtype).numpy(),)


Attention.__name__ = plugin.OPERATOR


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("plugin") / "m.onnx"
    return export_onnx(tiny_detector().slice(ARCH), path, meta=meta(), attention="plugin")


def nodes_of(artifact: Artifact) -> list[onnx.NodeProto]:
    graph = onnx.load(artifact.path).graph
    return [node for node in graph.node if node.domain == plugin.DOMAIN]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_computes_the_model(precision: str, tmp_path: Path) -> None:
    subnet = tiny_detector().slice(ARCH)
    path = tmp_path / "m.onnx"
    made = export_onnx(subnet, path, meta=meta(), attention="plugin", precision=precision)
    nodes = nodes_of(made)
    assert len(nodes) == ARCH.decoder_layers
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert plugin.OPERATOR in kinds and "GridSample" not in kinds
    image = images(1)
    evaluator = ReferenceEvaluator(str(path), new_ops=[Attention])
    scores, labels, boxes, _ = evaluator.run(None, {"images": image})
    with torch.no_grad():
        expected = top_k(subnet(normalise(torch.from_numpy(image))), ARCH.queries)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    assert np.allclose(scores, expected.scores.numpy(), atol=tolerance)
    if precision == "fp32":  # in float16, detections with nearly equal scores may change places
        assert np.array_equal(labels, expected.labels.numpy())
        assert np.allclose(boxes, expected.boxes_xyxy.numpy(), atol=tolerance)


def test_a_float16_file_gives_the_plugin_float16_values_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(
        tiny_detector().slice(ARCH), path, meta=meta(), attention="plugin", precision="fp16"
    )
    model = onnx.load(path)
    types = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    casts = {
        node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"
    }
    types = {one.name: one.data_type for one in model.graph.initializer} | types | casts
    for node in nodes_of(load_artifact(path)):
        half, *rest = (types[name] for name in node.input)
        assert half == TensorProto.FLOAT16 == types[node.output[0]]
        assert set(rest) == {TensorProto.FLOAT}


def test_nodes_name_the_plugin(exported: Artifact) -> None:
    """As TensorRT's parser reads them: name, version and namespace of the plugin, and its field."""
    for node in nodes_of(exported):
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        side = ARCH.resolution // ARCH.patch
        assert given == {
            "level_sizes": [side, side],
            "plugin_version": b"1",
            "plugin_namespace": b"rfdetr",
        }
    assert exported.manifest.build["attention"] == "plugin"


def test_other_runtimes_refuse_the_file(exported: Artifact) -> None:
    for backend in ("onnxruntime", "tensorrt-rtx"):
        with pytest.raises(InputError, match=f"TensorRT plugin, which {backend} does not run"):
            open_session(exported, backend)


def test_wrong_options(tmp_path: Path) -> None:
    subnet = tiny_detector().slice(ARCH)
    with pytest.raises(InputError, match="fixed number of images"):
        export_onnx(subnet, tmp_path / "m", meta=meta(), attention="plugin", batch="dynamic")
    with pytest.raises(InputError, match="unknown attention 'node'"):
        export_onnx(subnet, tmp_path / "m", meta=meta(), attention="node")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_node_as_standard_operators_is_the_ordinary_export(
    precision: str, tmp_path: Path
) -> None:
    subnet = tiny_detector().slice(ARCH)
    options: dict[str, Any] = {"meta": meta(), "precision": precision, "batch": 2}
    node = export_onnx(subnet, tmp_path / "node.onnx", attention="plugin", **options)
    usual = export_onnx(subnet, tmp_path / "usual.onnx", **options)
    content = with_standard_operators(node.path.read_bytes())
    found, expected = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(
            None, {"images": images(2)}
        )
        for one in (content, str(usual.path))
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.allclose(one, other, atol=1e-5 if precision == "fp32" else 2e-2)
    bare = usual.path.read_bytes()
    assert with_standard_operators(bare) == bare


def test_the_standard_operators_take_several_levels() -> None:
    random = np.random.default_rng(2)
    sizes = [(3, 5), (2, 4)]
    shapes = {
        "value": (2, 23, 3, 4),
        "offsets": (2, 7, 3, 2, 2, 2),
        "boxes": (2, 7, 4),
        "logits": (2, 7, 3, 2, 2),
    }
    inputs = {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}
    inputs["offsets"] = 4 * inputs["offsets"] - 2  # also beyond the rim
    node = onnx.helper.make_node(
        plugin.OPERATOR,
        list(inputs),
        ["out"],
        domain=plugin.DOMAIN,
        level_sizes=[3, 5, 2, 4],
        plugin_version=plugin.VERSION,
        plugin_namespace=plugin.DOMAIN,
    )
    specs = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {**shapes, "out": (2, 7, 12)}.items()
    ]
    graph = onnx.helper.make_graph([node], "g", specs[:-1], specs[-1:])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(plugin.DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    content = with_standard_operators(model.SerializeToString())
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    value, *rest = (torch.from_numpy(one) for one in inputs.values())
    expected = ops.ms_deform_attn_fused_reference(value, sizes, *rest)
    assert np.allclose(session.run(None, inputs)[0], expected.numpy(), atol=1e-5)
    other = model.graph.node.add()
    other.CopyFrom(node)
    other.output[0] = "other"
    other.attribute[0].ints[0] = 15
    with pytest.raises(ValueError, match="different levels"):
        with_standard_operators(model.SerializeToString())


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    fake = FakeTrt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "open_device", lambda *_: FakeDevice(A10))
    return fake


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "librfdetr_tensorrt.so"
    path.write_bytes(b"a library")
    monkeypatch.setattr(plugin, "LIBRARY", path)
    return path


@pytest.fixture
def marked(tmp_path: Path) -> Artifact:
    """A file that the double can run, and that says that it needs the plugin."""
    found = tiny_artifact(tmp_path)
    manifest = replace(found.manifest, build={"attention": "plugin"})
    return write_artifact(found.path, found.path.read_bytes(), manifest)


def test_an_engine_is_built_and_run_with_the_plugin(
    trt: FakeTrt, library: Path, marked: Artifact, tmp_path: Path
) -> None:
    """The library is loaded before the file is parsed, and once; another build of it makes another
    engine, and does not run the old one.
    """
    engine = build_engine(marked, "tensorrt", tmp_path)
    loads = [entry for entry in trt.log if entry[0] == "library"]
    assert loads == [("library", str(library))] and trt.log[0] == loads[0]
    assert engine.manifest.build["plugin"] == plugin.plugin_sha256()
    device = FakeDevice(A10)
    trt.device = device
    session = TrtSession(engine, "tensorrt", cuda_graph=False, device=device)
    session.bind(images(1))
    session.launch()
    assert [entry for entry in trt.log if entry[0] == "library"] == loads
    library.write_bytes(b"another library")
    assert build_engine(marked, "tensorrt", tmp_path).path != engine.path
    with pytest.raises(InputError, match="another build of the TensorRT plugin"):
        TrtSession(engine, "tensorrt", cuda_graph=False, device=device)


def test_a_plugin_that_is_missing_or_not_taken(
    trt: FakeTrt, library: Path, marked: Artifact, tmp_path: Path
) -> None:
    trt.plugins = False
    with pytest.raises(InputError, match="does not take the plugin's library"):
        build_engine(marked, "tensorrt", tmp_path)
    library.unlink()
    with pytest.raises(InputError, match="plugin is not built.*RFDETR_TENSORRT_INCLUDE=FOLDER"):
        build_engine(marked, "tensorrt", tmp_path)
    assert not list(tmp_path.glob("*.engine"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "m.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_command_exports_it(weights: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "m.onnx"
    argv = ["--model", str(weights), "--out", str(out), "--attention", "plugin"]
    assert run_main(export_command.main, [*argv, "--precision", precision]) == 0
    made = load_artifact(out)
    assert len(nodes_of(made)) == ARCH.decoder_layers and made.manifest.precision == precision


def test_the_command_asks_for_the_library_before_it_writes(
    trt: FakeTrt,
    library: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library.unlink()
    argv = ["--model", str(weights), "--out", str(tmp_path / "m.engine"), "--attention", "plugin"]
    assert run_main(export_command.main, argv) == 2
    error = capsys.readouterr().err
    assert "plugin is not built" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("m.safetensors", [], "--to torch has no plugin"),
        ("m.engine", ["--to", "tensorrt-rtx"], "--to tensorrt-rtx has no plugin"),
        ("m.onnx", ["--batch", "dynamic"], "fixed number of images"),
        ("m.onnx", ["--precision", "fp16", "--audit-images", "HERE"], "--audit-images runs"),
        ("m.onnx", ["--precision", "int8"], "--precision int8 runs"),
    ],
)
def test_the_command_refuses_what_the_file_cannot_be(
    weights: Path,
    tmp_path: Path,
    name: str,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(weights.parent) if one == "HERE" else one for one in arguments]
    argv = ["--model", str(weights), "--out", str(tmp_path / name), "--attention", "plugin"]
    assert run_main(export_command.main, [*argv, *given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
