"""Does a naive FP16 export destroy a detector, and does opset 17 repair the export? Emulated.

    python -m benchmarks.studies.half_opsets --model FILE.onnx ... --data DIR --training WORDS \
        --out FILE.jsonl

Each float32 file of opset 17 is evaluated in three forms: as it is; with every weight and the
output of every operator rounded to float16; and rounded with each LayerNormalization written as the
operators that PyTorch's exporter writes for opset 16, where the operator does not exist. An
operator adds in float32, as the tensor cores of a GPU do, and its result is rounded, so that a
square beyond 65,504 becomes infinite. A device that computes in FP16 may add in another order and
may fuse operators, so AP on such a device can differ. No node is kept in float32, which is what
makes the export naive. The files belong to training seeds 0, 1 and so on, in their order. AP on the
split of each file and form is stored as a Record, and the command claims compares the Records.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from rfdetr_repro.bench.accuracy import accuracy_of
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.claims.pairs import STUDY
from rfdetr_repro.claims.studies import FLOAT32, HALF_16, HALF_17
from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.export.artifact import Artifact, load_artifact, write_artifact
from rfdetr_repro.export.float16 import inline_constants
from rfdetr_repro.export.onnx_file import load, opset_of
from rfdetr_repro.records.record import Accuracy, DataId, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.spec.arguments import label, output_file
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.launch import command_line
from rfdetr_repro.spec.metrics import percent

FORMS = (FLOAT32, HALF_17, HALF_16)
NORM = "LayerNormalization"


def without_layer_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each LayerNormalization over the last axis is written as PyTorch's exporter
    writes the layer for opset 16. Raises :class:`InputError` for other axes.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(copy.graph.node):
        if node.op_type != NORM:
            nodes.append(node)
            continue
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if given.get("axis", -1) != -1:
            raise InputError(f"{NORM} {node.name} is not over the last axis alone")
        nodes += _written_out(node, given.get("epsilon", 1e-5), f"norm{index}", copy.graph)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _written_out(
    node: onnx.NodeProto, epsilon: float, name: str, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    source, *affine = node.input
    for constant, value in (("two", 2.0), ("epsilon", epsilon)):
        array = np.array(value, dtype=np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{name}/{constant}"))

    def step(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        path = f"{name}/{output}"
        return helper.make_node(kind, inputs, [path], path, **attributes)

    found = [
        step("ReduceMean", [source], "mean", axes=[-1]),
        step("Sub", [source, f"{name}/mean"], "centred"),
        step("Pow", [f"{name}/centred", f"{name}/two"], "squares"),
        step("ReduceMean", [f"{name}/squares"], "variance", axes=[-1]),
        step("Add", [f"{name}/variance", f"{name}/epsilon"], "safe"),
        step("Sqrt", [f"{name}/safe"], "deviation"),
        step("Div", [f"{name}/centred", f"{name}/deviation"], "normalised"),
    ]
    for kind, factor in zip(("Mul", "Add"), affine, strict=False):
        found.append(step(kind, [found[-1].output[0], factor], f"after_{kind}"))
    found[-1].output[0] = node.output[0]
    return found


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float32 with every weight and every operator's result rounded to
    float16; values beyond its range become infinite. The names of inputs and outputs stay. Raises
    :class:`InputError` where the type of a result cannot be inferred.
    """
    copy = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = copy.graph
    inline_constants(graph)
    types = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.output)}
    for node in graph.node:
        if any(name and not types.get(name) for name in node.output):
            raise InputError(f"the type of the results of {node.op_type} {node.name} is unknown")
    floats = {name for name, type_ in types.items() if type_ == TensorProto.FLOAT}
    for one in graph.initializer:
        if one.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                array = numpy_helper.to_array(one).astype(np.float16).astype(np.float32)
            one.CopyFrom(numpy_helper.from_array(array, one.name))
    nodes = [
        *(each for one in graph.input for each in _casts(one.name, f"{one.name}/given")),
    ]
    renamed = {one.name: f"{one.name}/given" for one in graph.input}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in floats:
                node.output[place] = f"{name}/exact"
                nodes += _casts(f"{name}/exact", name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _casts(source: str, target: str) -> list[onnx.NodeProto]:
    half = f"{target}/half"
    return [
        helper.make_node("Cast", [source], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], to=TensorProto.FLOAT),
    ]


def forms_of(artifact: Artifact, folder: Path) -> list[Artifact]:
    """The artifact in all FORMS; files are written to ``folder``. Raises :class:`InputError` for a
    file that is not float32 of opset 17, or has no LayerNormalization.
    """
    model = load(artifact.path)
    if artifact.manifest.precision != "fp32" or opset_of(model) != 17:
        raise InputError(
            f"the file has the precision {artifact.manifest.precision} and the opset "
            f"{opset_of(model)}",
            artifact.path,
            "give a float32 file of opset 17",
        )
    if not any(node.op_type == NORM for node in model.graph.node):
        raise InputError(f"the file has no {NORM}, in which the opsets differ", artifact.path)
    found = [artifact]
    for name, form in (("17", model), ("16", without_layer_norms(model))):
        content = rounded(form).SerializeToString()
        path = folder / f"{artifact.path.stem}-{name}.onnx"
        digest = sha256_bytes(content)
        manifest = replace(artifact.manifest, sha256=digest, size_bytes=len(content))
        if manifest.onnx_sha256 is not None:
            manifest = replace(manifest, onnx_sha256=digest)
        found.append(write_artifact(path, content, manifest))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints and stores the AP of every file and form."""
    parser = argparse.ArgumentParser("benchmarks.studies.half_opsets", description=__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="float32 ONNX files")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--split", default="test", help="split to evaluate on (default: test)")
    parser.add_argument(
        "--training", type=label, required=True, help='such as "800 steps from random weights"'
    )
    parser.add_argument("--out", type=output_file, required=True, help="store to add to")
    args = parser.parse_args(argv)
    source = DataSource(args.data)
    store = Store(args.out)
    artifacts = [load_artifact(path) for path in args.model]
    for artifact in artifacts:
        if artifact.manifest.model.family != "dfine":
            raise InputError(
                f"the claim is about D-FINE, and the file is {artifact.manifest.model.name}",
                artifact.path,
                "give files of D-FINE, such as train-rival writes",
            )
    for seed, artifact in enumerate(artifacts):
        started_at = utc_now()
        manifest = artifact.manifest
        split = read_split(
            source, args.split, ClassMap(manifest.category_ids, manifest.class_names)
        )
        with tempfile.TemporaryDirectory() as folder:
            forms = dict(zip(FORMS, forms_of(artifact, Path(folder)), strict=True))
            found = {name: _accuracy(form, split) for name, form in forms.items()}
        told = ", ".join(f"{name} {percent(one.ap)}" for name, one in found.items())
        print(f"{artifact.path.name}: AP {told}", flush=True)
        training = f"{args.training}; FP16 emulated on a CPU"
        store.extend(
            Record(
                STUDY,
                ModelId(
                    manifest.model.family,
                    f"{manifest.model.name}, {training}",
                    size=manifest.model.size,
                    variant=name,
                    checkpoint_sha256=manifest.model.checkpoint_sha256,
                ),
                data=DataId(split.name, split.split, split.sha256, len(split)),
                accuracy=replace(one, artifact_sha256=None),
                machine=this_machine(),
                env=environment(),
                campaign=STUDY,
                seed=seed,
                started_at=started_at,
                command=command_line("python -m benchmarks.studies.half_opsets", argv),
            )
            for name, one in found.items()
        )


def _accuracy(artifact: Artifact, split: CocoSplit) -> Accuracy:
    boxes, _ = accuracy_of(open_session(artifact, "onnxruntime"), split)
    return boxes


if __name__ == "__main__":
    raise SystemExit(run_main(main))
