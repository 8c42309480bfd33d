"""What a backend accepts of a file: types that widen without loss, shapes of ranked detections, the
manifest's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_backends import both_formats
from samples_export import images

from rfdetr_repro.export.artifact import Artifact, TensorSpec
from rfdetr_repro.export.contract import (
    UNKNOWN,
    check_images,
    check_input,
    check_outputs,
    content_of,
    exact,
)
from rfdetr_repro.spec.errors import InputError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return both_formats(tmp_path_factory.mktemp("artifact")).onnx


def outputs(artifact: Artifact, **changes: tuple[tuple[int, ...], str]) -> list[TensorSpec]:
    specs = {spec.name: (spec.shape, spec.dtype) for spec in artifact.manifest.outputs} | changes
    return [TensorSpec(name, *spec) for name, spec in specs.items()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scores": ((1, 8), "float16")},
        {"labels": ((1, 8), "int32")},
        {"labels": ((1, 8), "uint8")},
        {"boxes": ((1, UNKNOWN, 4), "float32")},
        {"masks": ((UNKNOWN, 8, 8, 8), "float16")},
    ],
)
def test_what_is_taken(artifact: Artifact, changes: dict[str, tuple[tuple[int, ...], str]]) -> None:
    check_outputs(outputs(artifact, **changes), artifact)
    boxes = replace(artifact.manifest, outputs=artifact.manifest.outputs[:3])
    check_outputs(outputs(artifact, **changes)[:3], replace(artifact, manifest=boxes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": ((1, 8), "bool")}, "scores is bool, which cannot become float32"),
        ({"scores": ((1, 8), "bfloat16")}, "scores is bfloat16"),
        ({"scores": ((1, 8), "int64")}, "scores is int64"),
        ({"boxes": ((1, 8, 4), "float64")}, "boxes is float64"),
        ({"labels": ((1, 8), "float32")}, "labels is float32, which cannot become int64"),
        ({"labels": ((1, 8), "uint64")}, "labels is uint64"),
        ({"masks": ((1, 8, 8, 8), "bool")}, "masks is bool"),
        ({"scores": ((8,), "float32")}, r"scores has the shape \(8,\), not \(1, K\)"),
        ({"boxes": ((1, 8, 5), "float32")}, r"boxes has the shape \(1, 8, 5\), not \(1, K, 4\)"),
        ({"labels": ((2, 8), "int64")}, r"labels has the shape \(2, 8\)"),
        ({"extra": ((1,), "float32")}, "are not ranked detections"),
    ],
)
def test_what_is_refused(
    artifact: Artifact, changes: dict[str, tuple[tuple[int, ...], str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_outputs(outputs(artifact, **changes), artifact)


def test_order_of_the_outputs_counts(artifact: Artifact) -> None:
    with pytest.raises(
        InputError,
        match=r"\['labels', 'scores', 'boxes'\] are not ranked detections .*; export it again",
    ):
        check_outputs([outputs(artifact)[i] for i in (1, 0, 2)], artifact)
    upstream = Artifact(artifact.path, replace(artifact.manifest, contract="upstream"))
    with pytest.raises(InputError, match="exported with the decoded contract"):
        check_outputs(outputs(artifact)[1:], upstream)


def test_the_input_is_the_manifest_s(artifact: Artifact) -> None:
    spec = artifact.manifest.inputs[0]
    assert check_input([spec], artifact) == spec
    wrong: list[Sequence[TensorSpec]] = [
        [],
        [spec, spec],
        [replace(spec, shape=(1, 3, 32, 40))],
        [replace(spec, dtype="float16")],
    ]
    for found in wrong:
        with pytest.raises(InputError, match="its manifest states images float32"):
            check_input(found, artifact)
    whole = Artifact(
        artifact.path, replace(artifact.manifest, inputs=(replace(spec, dtype="uint8"),))
    )
    with pytest.raises(InputError, match="images of the type uint8 are not supported"):
        check_input(whole.manifest.inputs, whole)


def test_images_become_the_type_of_the_file(artifact: Artifact) -> None:
    half = replace(
        artifact.manifest, inputs=(replace(artifact.manifest.inputs[0], dtype="float16"),)
    )
    bound = check_images(images(1), half)
    assert bound.dtype == np.float16 and np.array_equal(bound, images(1).astype(np.float16))
    turned = images(1).transpose(0, 1, 3, 2)
    assert check_images(turned, artifact.manifest).flags.c_contiguous


def test_widening_is_exact() -> None:
    values = np.array([[0.1, 1.0, 65504.0]], dtype=np.float16)
    scores, labels = exact([values, np.array([[-1, 7, 2**31 - 1]], dtype=np.int32)])
    assert scores.dtype == np.float32 and np.array_equal(scores.astype(np.float16), values)
    assert labels.dtype == np.int64 and labels.tolist() == [[-1, 7, 2**31 - 1]]


def test_content_is_what_the_manifest_names(artifact: Artifact, tmp_path: Path) -> None:
    assert content_of(artifact, "onnx") == artifact.path.read_bytes()
    with pytest.raises(
        InputError,
        match="torch files, not onnx .*; open the file with the backend onnxruntime",
    ):
        content_of(artifact, "torch")
    with pytest.raises(InputError, match="changed since it was loaded"):
        content_of(Artifact(artifact.path, replace(artifact.manifest, size_bytes=1)), "onnx")
    with pytest.raises(InputError, match="cannot read"):
        content_of(Artifact(tmp_path / "gone.onnx", artifact.manifest), "onnx")
