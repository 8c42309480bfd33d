"""Engines on the double of TensorRT are compared with their ONNX file when they are first opened:
equal outputs pass, others are refused, and nothing is called equal that was not compared.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from samples_export import ARCH, meta, tiny_artifact, tiny_detector
from samples_tensorrt import T4, FakeTrt, Setup

from rfdetr_repro import export_command
from rfdetr_repro.export import deployed, plugin
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.export.half import half_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.export.tensorrt import engine as build_module
from rfdetr_repro.runtime import engine_check as module
from rfdetr_repro.runtime import tensorrt as session_module
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.engine_check import EXACT, HALF, Comparison, allowed_for
from rfdetr_repro.spec.errors import InputError, StatedFailure, run_main

Change = Callable[[str, np.ndarray], np.ndarray]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """File and engine in one folder."""
    return Setup(tiny_artifact(tmp_path), tmp_path, monkeypatch)


def kept(setup: Setup) -> Path:
    return setup.engine.path.with_name(f"{setup.engine.path.name}.agreement.json")


def changed(output: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda name, array: change(array).astype(array.dtype) if name == output else array


def no_check(*_: object) -> None:
    raise AssertionError("the check is repeated")


@pytest.mark.parametrize("given", ["onnx", "engine"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_equal_engine_is_accepted_and_says_so(
    setup: Setup, given: str, cuda_graph: bool
) -> None:
    artifact = setup.onnx if given == "onnx" else setup.engine
    session = open_session(artifact, "tensorrt", threads=1, cuda_graph=cuda_graph)
    assert session.artifact_id.sha256 == setup.engine.sha256
    assert session.artifact_id.options.endswith(" agreement=onnxruntime")
    found = json.loads(kept(setup).read_text())["found"]
    assert found["agreeing"] == found["steady"] == 1 and found["box"] < 1e-5


WRONG = {
    "boxes": changed("boxes", lambda boxes: boxes + 0.01),
    "boxes far away": changed("boxes", lambda boxes: boxes + 0.2),
    "scores": changed("scores", lambda scores: scores * 0.8),
    "labels": changed("labels", lambda labels: (labels + 1) % 3),
    "masks": changed("masks", lambda masks: masks * 0.9),
    "not finite": changed("scores", lambda scores: np.full_like(scores, np.nan)),
    "one number": changed("boxes", lambda boxes: np.where(boxes == boxes.max(), np.inf, boxes)),
    "nothing": lambda _, array: np.zeros_like(array),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_engine_with_other_outputs_is_refused(setup: Setup, name: str) -> None:
    setup.trt.altered = WRONG[name]
    with pytest.raises(StatedFailure) as caught:
        open_session(setup.engine, "tensorrt", threads=1)
    line = str(caught.value)
    assert line.startswith(f"{setup.engine.path}: the engine disagrees with its ONNX file on onnx")
    assert "\n" not in line and line.endswith(
        "export the model with --attention plugin, or use another version of TensorRT"
    )
    difference = {
        "boxes": "box 0.01,",
        "boxes far away": "no detection has a counterpart within 0.05",
        "one number": "some of its numbers are not finite",
        "not finite": "some of its numbers are not finite",
    }
    assert difference.get(name, "") in line
    assert not kept(setup).exists() and setup.device.log[-1] == "close"
    with pytest.raises(StatedFailure, match="disagrees"):  # no second try passes
        open_session(setup.onnx, "tensorrt", threads=1)


@pytest.fixture
def export(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """``export --to BACKEND`` of a tiny model; returns the exit code."""
    given = SimpleNamespace(detector=tiny_detector().slice(ARCH), meta=lambda name: meta())
    monkeypatch.setattr(deployed, "loaded_weights", lambda *_: given)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTrt("1.7.0", setup.device))  # type: ignore[arg-type]
    (tmp_path / "weights.pth").write_bytes(b"")

    def run(backend: str) -> int:
        argv = ["--model", str(tmp_path / "weights.pth"), "--to", backend]
        return run_main(export_command.main, [*argv, "--out", str(tmp_path / "new.engine")])

    return run


def test_an_engine_is_checked_when_it_is_built(
    setup: Setup, export: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("tensorrt") == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.endswith("; its outputs are those of the ONNX file on onnxruntime")
    assert (tmp_path / "new.engine.agreement.json").is_file() and setup.device.log[-1] == "close"


def test_an_engine_that_disagrees_is_not_left(
    setup: Setup, export: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.trt.altered = WRONG["boxes"]
    assert export("tensorrt") == 1
    error = capsys.readouterr().err
    assert "the engine disagrees with its ONNX file" in error
    assert error.rstrip().endswith("the engine has been removed") and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.glob("new*")) == ["new.json", "new.onnx"]
    assert setup.device.log[-1] == "close"


def test_without_a_gpu_a_built_engine_is_unknown(
    export: Callable[[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none(*_: object) -> None:
        raise InputError("there is no CUDA device")

    for place in (build_module, session_module):
        monkeypatch.setattr(place, "open_device", none)
    assert export("tensorrt-rtx") == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert "is unknown until it is first opened: there is no CUDA device" in told
    assert (tmp_path / "new.engine").is_file()


def test_a_passed_check_is_not_repeated(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    open_session(setup.onnx, "tensorrt", threads=1)
    checked = setup.trt.log.count("launch")
    assert checked == 4  # the first of every session, and three images
    monkeypatch.setattr(module, "OrtSession", no_check)
    for artifact in (setup.onnx, setup.engine):
        session = open_session(artifact, "tensorrt", threads=1)
        assert session.artifact_id.options.endswith(" agreement=onnxruntime")
    assert setup.trt.log.count("launch") == checked + 2


@pytest.mark.parametrize("changes", ["device", "rule", "engine", "damaged", "no runtime"])
def test_a_check_of_something_else_is_not_taken(
    setup: Setup, changes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_session(setup.engine, "tensorrt", threads=1)
    fields = json.loads(kept(setup).read_text())
    content = json.dumps({**fields, "engine": "0" * 64} if changes == "engine" else fields)
    if changes == "no runtime":
        content = json.dumps({**fields, "runtime": None})
    kept(setup).write_text(content[:-3] if changes == "damaged" else content)
    if changes == "rule":
        monkeypatch.setattr(module, "EXACT", replace(EXACT, box=2e-3))
    if changes == "device":
        setup.device.gpu = T4
        build = {**setup.engine.manifest.build, "gpu": str(T4)}
        engine = replace(setup.engine, manifest=replace(setup.engine.manifest, build=build))
    else:
        engine = setup.engine
    setup.trt.altered = WRONG["boxes"]
    with pytest.raises(StatedFailure, match="disagrees"):
        open_session(engine, "tensorrt", threads=1)


def unknown(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> str:
    """The warning of a session whose agreement is unknown."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "rfdetr_repro"):
        session = open_session(artifact, "tensorrt", threads=1)
    assert session.artifact_id.options.endswith(" agreement=unknown")
    (line,) = caplog.messages
    assert "whether the engine computes what its ONNX file computes is unknown: " in line
    return line


def test_without_its_file_the_agreement_is_unknown(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.onnx.path.rename(setup.onnx.path.with_suffix(".moved"))
    for _ in range(2):  # it is said every time
        assert "is not in its folder" in unknown(setup.engine, caplog)
    assert not kept(setup).exists()
    setup.onnx.path.write_bytes(b"another file")
    assert "differs from the hash in its manifest" in unknown(setup.engine, caplog)


def test_where_onnx_runtime_does_not_run_the_file_the_agreement_is_unknown(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(artifact: Artifact, threads: int) -> None:
        raise InputError("ONNX Runtime cannot load the model", artifact.path)

    with monkeypatch.context() as patched:
        patched.setattr(module, "OrtSession", refuse)
        assert "ONNX Runtime cannot load the model" in unknown(setup.onnx, caplog)
    monkeypatch.setattr(module.OrtSession, "launch", no_check)
    assert "ONNX Runtime does not run it (the check is repeated)" in unknown(setup.onnx, caplog)
    assert not kept(setup).exists()


@pytest.mark.parametrize(
    ("agreeing", "steady", "outcome"),
    [
        (0.81, 1, "passes"),
        (0.79, 1, "refused"),
        (0.5, 0.6, "passes"),
        (0.45, 0.6, "refused"),
        (0.24, 0.24, "unknown"),
        (float("nan"), 1, "refused"),
    ],
)
def test_what_rounding_changes_is_not_held_against_the_engine(
    setup: Setup,
    agreeing: float,
    steady: float,
    outcome: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Comparison(agreeing, steady, 1.0, 0.01, 0.01, 0.01, finite=True)
    monkeypatch.setattr(module, "compare", lambda *_: found)
    if outcome == "refused":
        with pytest.raises(StatedFailure, match="% must agree"):
            open_session(setup.onnx, "tensorrt")
    elif outcome == "unknown":
        assert "rounding alone changes 76% of the detections" in unknown(setup.onnx, caplog)
    else:
        assert "onnxruntime" in open_session(setup.onnx, "tensorrt").artifact_id.options


def test_a_steady_file_counts_as_one_and_another_does_not(setup: Setup) -> None:
    """The exact runtime is compared with itself, at the rounding that is allowed."""
    session = setup.open()
    seen: list[np.ndarray] = []

    def unsteady(images: np.ndarray) -> module.Detections:
        seen.append(images)
        found = module.OrtSession(setup.onnx, 1).run(images)
        return found if len(seen) % 2 else found._replace(scores=found.scores + 0.1)

    found = module.compare(session, unsteady, HALF)
    assert (found.agreeing, found.steady) == (1, 0)
    for given, rounded in zip(seen[::2], seen[1::2], strict=True):
        apart = np.abs(given - rounded).max()
        assert 0 < apart <= HALF.rounding and rounded.dtype == np.float32


def test_the_tolerance_is_that_of_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tiny_artifact(tmp_path)
    exact = Setup(wide, tmp_path, monkeypatch)
    build = exact.engine.manifest.build
    assert allowed_for(exact.engine.manifest) == EXACT
    for other in ({**build, "tf32": "True"}, {}):
        assert allowed_for(replace(exact.engine.manifest, build=other)) == HALF
    shift = changed("boxes", lambda boxes: boxes + 0.005)
    exact.trt.altered = shift
    with pytest.raises(StatedFailure, match="disagrees"):
        open_session(exact.onnx, "tensorrt")
    half = Setup(half_artifact(wide, tmp_path / "half.onnx"), tmp_path, monkeypatch)
    assert allowed_for(half.engine.manifest) == HALF
    half.trt.altered = shift
    assert open_session(half.onnx, "tensorrt").artifact_id.options.endswith("=onnxruntime")
    kept(half).unlink()
    half.trt.altered = WRONG["boxes far away"]
    with pytest.raises(StatedFailure, match="or build from the fp32 file$"):
        open_session(half.onnx, "tensorrt")


@pytest.mark.parametrize("batch", [2, 4, "dynamic"])
def test_every_image_of_a_batch_is_compared(
    batch: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines have been reported that compute the first image of a batch alone correctly."""

    def first_alone(_: str, array: np.ndarray) -> np.ndarray:
        return np.concatenate([array[:1], np.zeros_like(array[1:])])

    subnet = tiny_detector().slice(ARCH)
    onnx = export_onnx(subnet, tmp_path / "m.onnx", meta=meta(), batch=batch)
    setup = Setup(onnx, tmp_path, monkeypatch)
    setup.trt.altered = first_alone
    with pytest.raises(StatedFailure, match="disagrees"):
        open_session(onnx, "tensorrt", threads=1)
    setup.trt.altered = lambda _, array: array
    session = open_session(onnx, "tensorrt", threads=1)
    count = 1 if batch == "dynamic" else batch
    session.launch()
    assert len(session.outputs().scores) == count, "as it was opened"


def test_a_folder_that_cannot_be_written_to_does_not_end_the_session(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(module, "write_atomic", full)
    with caplog.at_level(logging.INFO, "rfdetr_repro"):
        session = open_session(setup.onnx, "tensorrt", threads=1)
    assert session.artifact_id.options.endswith(" agreement=onnxruntime")
    assert "is not kept, and is repeated next time: no space" in caplog.messages[-1]


def test_an_engine_with_the_plugin_is_compared_with_standard_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "librfdetr_tensorrt.so"
    library.write_bytes(b"a library")
    monkeypatch.setattr(plugin, "LIBRARY", library)
    subnet = tiny_detector().slice(ARCH)
    onnx = export_onnx(subnet, tmp_path / "m.onnx", meta=meta(), attention="plugin")
    usual = export_onnx(subnet, tmp_path / "usual.onnx", meta=meta()).path.read_bytes()
    monkeypatch.setattr(FakeTrt, "read", staticmethod(lambda _: usual))  # as the plugin computes
    setup = Setup(onnx, tmp_path, monkeypatch)
    session = open_session(onnx, "tensorrt", threads=1)
    assert session.artifact_id.options.endswith(" agreement=onnxruntime")
    kept(setup).unlink()
    setup.trt.altered = WRONG["boxes"]
    with pytest.raises(StatedFailure, match="must agree; use another version of TensorRT$"):
        open_session(onnx, "tensorrt", threads=1)
