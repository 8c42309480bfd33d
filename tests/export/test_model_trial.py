"""Somebody else's ONNX file is run in a process of its own first: what it asks for ends that
process alone, and is one line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from samples_export import tiny_artifact, tiny_detector

from rfdetr_repro.export import fp16_audit_command, trial
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.artifact import write_artifact
from rfdetr_repro.export.trial import Output, run_once, tried
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import sha256_bytes

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))
from mutations_onnx import of_onnx
from seeds import _foreign

GREEDY = [
    "ConstantOfShape of (1099511627776,)",
    "Expand of pixels of (1073741824,)",
    "Range to 1000000000",
    "Pad of (2147483648,)",
]
REFUSED = [
    *GREEDY,
    "opset 999",
    "opset 7",
    "IR version 99",
    "cycle",
    "missing constant",
    "unknown domain",
    "input of 100000 x 100000",
    "boxes all nan",
    "constant said to be [3, 1000000000000]",
    "127 bytes of a constant",
    "strings",
    "segment",
    "external data: missing",
    "external data: outside",
    "external data: absolute",
    "external data: device",
    "external data: nul",
    "external data: link to a device",
    "external data: link to itself",
    "external data: fifo",
    "external data: offset 'x'",
]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("foreign") / "m.onnx"
    _foreign(path)
    return path.read_bytes()


def spoiled(content: bytes, name: str, folder: Path) -> Path:
    (mutation,) = [mutation for mutation in of_onnx(content) if mutation.name == f"graph: {name}"]
    path = folder / "m.onnx"
    path.write_bytes(content)
    mutation.apply(path)
    return path


def test_a_good_file_gives_its_outputs(foreign: bytes) -> None:
    found = run_once(foreign, "m.onnx")
    assert found == [
        Output("pred_boxes", "float32", (1, 8, 4), True),
        Output("pred_logits", "float32", (1, 8, 3), True),
    ]
    assert [output.nbytes for output in found] == [128, 96]


@pytest.mark.parametrize("name", REFUSED)
def test_a_spoiled_file_is_one_line_and_nothing_is_written(
    name: str, foreign: bytes, tmp_path: Path
) -> None:
    path = spoiled(foreign, name, tmp_path)
    with pytest.raises(InputError) as told:
        adopt(path, tmp_path / "adopted" / "m.onnx")
    assert len(str(told.value).splitlines()) == 1 and "m.onnx" in str(told.value)
    assert not (tmp_path / "adopted").exists()
    assert run_main(fp16_audit_command.main, [str(path), "--count", "1"]) == 2


@pytest.mark.parametrize("name", GREEDY)
def test_what_takes_too_much_memory_is_told_and_the_next_file_is_tried(
    name: str, foreign: bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="memory"):
        run_once(spoiled(foreign, name, tmp_path).read_bytes(), "m.onnx")
    assert len(run_once(foreign, "m.onnx")) == 2


def test_what_the_runtime_prints_is_no_answer(foreign: bytes) -> None:
    """ONNX Runtime prints lines about a name that is not UTF-8; they were taken for the answers to
    this file and to the next ones.
    """
    with pytest.raises(InputError, match="cannot load the model"):
        run_once(foreign.replace(b"logits_c", b"logits\xdfc", 1), "m.onnx")
    assert len(run_once(foreign, "m.onnx")) == 2


def test_a_loop_without_end_ends(
    foreign: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of processor time: on a slow machine the test waits longer, nothing else
    monkeypatch.setattr(trial, "BASE_SECONDS", 1)
    with pytest.raises(InputError, match="in time"):
        run_once(spoiled(foreign, "Loop of no limit", tmp_path).read_bytes(), "m.onnx")


def test_a_process_that_dies_is_told(foreign: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SIGSEGV" in trial._of_end(-11)["error"]
    helper = trial._started()
    helper.kill()
    helper.wait()
    assert len(run_once(foreign, "m.onnx")) == 2  # another one is started


def test_an_artifact_whose_outputs_are_no_numbers_is_refused(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path, tiny_detector())
    assert tried(artifact) is artifact
    model = onnx.load(artifact.path)
    for constant in model.graph.initializer:
        value = numpy_helper.to_array(constant)
        if value.dtype == np.float32 and value.ndim > 1:
            constant.CopyFrom(numpy_helper.from_array(np.full_like(value, 1e38), constant.name))
    content = model.SerializeToString()
    manifest = replace(artifact.manifest, sha256=sha256_bytes(content), size_bytes=len(content))
    with pytest.raises(InputError, match="not finite"):
        tried(write_artifact(tmp_path / "huge.onnx", content, manifest))
