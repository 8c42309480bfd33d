"""The C++ runner (csrc/deploy) refuses in one line what it cannot run: other manifests, files and
arguments.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from samples_export import tiny_artifact, tiny_detector
from samples_exported import detector
from samples_runner import SOURCES, Runner, picture, refused, with_changes, write

from rfdetr_repro.export.artifact import (
    Artifact,
    Manifest,
    load_artifact,
    manifest_path,
    write_artifact,
)
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.resize_rules import RULES

pytestmark = pytest.mark.slow

# field -> (what a manifest says of it, words of the error)
OTHER_MANIFESTS: dict[str, tuple[Any, str]] = {
    "schema": (2, "its schema is not 1"),
    "resize": ("nearest", 'unknown resize rule "nearest"'),
    "input_range": ([0, 255], "range"),
    "normalisation": ("ImageNet mean and standard deviation, before the graph", "normalisation"),
    "contract": ("upstream", "decoded"),
    "format": ("torch", "not torch"),
    "crop": ("centre", 'unknown field "crop"'),
    "sha256": ("0" * 64, "hash"),
    "size_bytes": (1, "1|bytes"),
    "class_names": (["a"], "differ in number"),
    "category_ids": ([1, 1, 2], "one category id"),
    "batch": (4, "batch"),
    "inputs": ([{"name": "images", "shape": [1, 3, 64, 64], "dtype": "float32"}], "inputs are"),
    "outputs": ([{"name": "dets", "shape": [1, 5, 4], "dtype": "float32"}], "other outputs"),
}


@pytest.mark.parametrize("field", OTHER_MANIFESTS)
def test_another_manifest_is_refused(
    runner: Runner, artifact: Artifact, tmp_path: Path, field: str
) -> None:
    value, words = OTHER_MANIFESTS[field]
    model = with_changes(artifact, tmp_path)
    path = manifest_path(model.path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    refused(runner("--model", model.path, shown), words)


def test_every_field_of_a_manifest_is_known_to_the_runner() -> None:
    text = (SOURCES / "manifest.h").read_text(encoding="utf-8")
    listed = re.search(r"kFields = \{(.*?)\}", text, re.S)
    assert listed is not None
    known = set(re.findall(r'"(\w+)"', listed[1]))
    assert known == {field.name for field in dataclasses.fields(Manifest)}


def test_every_resize_rule_is_known_to_the_runner() -> None:
    text = (SOURCES / "manifest.h").read_text(encoding="utf-8")
    assert all(f'"{rule}"' in text for rule in RULES)


def test_missing_files(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(artifact.path.read_bytes())
    refused(runner("--model", alone, shown), r"no manifest \(\S*alone\.json\)")
    refused(runner("--model", tmp_path / "none.onnx", shown), "does not exist")
    refused(runner("--model", artifact.path, tmp_path / "none.ppm"), "the image does not exist")
    refused(runner("--model", artifact.path), "no picture")
    refused(runner(shown), "no model")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--threshold", "2"),
        ("--threshold", "x"),
        ("--threads", "0"),
        ("--frobnicate",),
        ("--model",),
    ],
)
def test_wrong_arguments(runner: Runner, arguments: tuple[str, ...]) -> None:
    refused(runner(*arguments), "error: ")


def test_an_unknown_instruction_set(
    runner: Runner, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFDETR_ISA", "mmx")
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    done = runner("--model", artifact.path, shown)
    refused(done, 'RFDETR_ISA="mmx"')
    assert done.stdout == ""


def test_the_file_must_be_that_of_the_manifest(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    model = with_changes(artifact, tmp_path)
    with model.path.open("ab") as stream:
        stream.write(b"\0")
    refused(runner("--model", model.path, shown), "hash")
    content = b"no model at all"
    manifest = replace(artifact.manifest, sha256=sha256_bytes(content), size_bytes=len(content))
    write_artifact(tmp_path / "broken.onnx", content, manifest)
    refused(runner("--model", tmp_path / "broken.onnx", shown), "ONNX Runtime cannot run")


def test_other_outputs_are_refused(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    graph = onnx.load(artifact.path)
    graph.graph.output[0].name = "odds"
    next(node for node in graph.graph.node if "scores" in node.output).output[0] = "odds"
    for node in graph.graph.node:
        node.input[:] = ["odds" if name == "scores" else name for name in node.input]
    content = graph.SerializeToString()
    manifest = replace(
        artifact.manifest,
        sha256=sha256_bytes(content),
        size_bytes=len(content),
    )
    model = write_artifact(tmp_path / "m.onnx", content, manifest)
    with pytest.raises(InputError, match="not ranked detections"):
        OrtSession(model, 1)
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    refused(runner("--model", model.path, shown), "outputs are not scores, labels, boxes")


def test_labels_without_a_name_and_numbers_that_are_not_finite(
    runner: Runner, tmp_path: Path
) -> None:
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    base = tiny_artifact(tmp_path / "base", tiny_detector(masks=False)).manifest
    for name, label, score in (("label", 3, 0.5), ("score", 0, np.nan)):
        values = {
            "scores": np.array([[score]], np.float32),
            "labels": np.array([[label]], np.int64),
            "boxes": np.zeros((1, 1, 4), np.float32),
        }
        content = detector(tmp_path / f"{name}.raw", values).read_bytes()
        manifest = replace(
            base,
            sha256=sha256_bytes(content),
            size_bytes=len(content),
            inputs=(replace(base.inputs[0], name="images", shape=(1, 3, 48, 64)),),
        )
        model = write_artifact(tmp_path / f"{name}.onnx", content, manifest)
        words = {"label": "the label 3 for 3 classes", "score": "not finite"}[name]
        done = runner("--model", model.path, shown)
        refused(done, words)
        assert json.loads(done.stdout) == []


def _spoiled(text: str) -> list[str]:
    """Texts near a manifest that are not JSON, or JSON of another kind."""
    cut = [text[:length] for length in range(0, len(text) - 2, 97)]
    swapped = [text.replace(old, new, 1) for old, new in ((":", ","), ("[", "{"), ('"', ""))]
    deep = ["[" * 100_000, '{"a":' * 100_000]
    return [
        *cut,
        *swapped,
        *deep,
        "null",
        "[]",
        text + text,
        text.replace("1", "1e999"),
        '{"a":1,"a":1}',
    ]


def test_a_spoiled_manifest_is_one_line(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    shown = write(tmp_path / "a.ppm", picture(9, 9))
    model = with_changes(artifact, tmp_path)
    path = manifest_path(model.path)
    for text in _spoiled(path.read_text()):
        path.write_text(text)
        refused(runner("--model", model.path, shown), "manifest")
        with pytest.raises(InputError):
            load_artifact(model.path)
    path.write_bytes(b'{"schema": 1, "\xff": 1}')
    refused(runner("--model", model.path, shown), "UTF-8")
