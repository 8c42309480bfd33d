"""The C++ runner (csrc/deploy) against Python's own predictor: the same pixels give the same
labels, scores, boxes and masks, and the same JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_export import ARCH, meta, tiny_artifact, tiny_detector
from samples_exported import detector
from samples_runner import Runner, check_pictures, picture, with_changes, write

from rfdetr_repro import predict
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.runtime.predictors import FilePredictor
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.resize_rules import RULES

pytestmark = pytest.mark.slow

# sizes that are enlarged, reduced, kept, one pixel wide, and whose scaled sides end in a half
SIZES = [(32, 32), (33, 70), (200, 131), (7, 300), (1, 1), (1, 90), (64, 63), (16, 5), (481, 640)]


@pytest.mark.parametrize("rule", RULES)
def test_equal_to_python_by_every_resize_rule(
    runner: Runner, artifact: Artifact, tmp_path: Path, rule: str
) -> None:
    model = with_changes(artifact, tmp_path / "model", resize=rule)
    paths = [
        write(tmp_path / f"{height}x{width}.ppm", picture(height, width, seed))
        for seed, (height, width) in enumerate(SIZES)
    ]
    assert check_pictures(runner, model, paths) > len(paths)


@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_equal_for_files_of_several_images(
    runner: Runner, tmp_path: Path, batch: int | str
) -> None:
    model = export_onnx(
        tiny_detector(2, masks=False).slice(ARCH), tmp_path / "m.onnx", meta=meta(), batch=batch
    )
    paths = [write(tmp_path / f"{seed}.ppm", picture(50, 40, seed)) for seed in range(2)]
    assert check_pictures(runner, model, paths) > 0


def test_threshold_keeps_equal_scores(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ppm", picture(40, 40))
    seen = FilePredictor(OrtSession(artifact, 2), "m")(picture(40, 40), 0.0)
    middle = float(seen.scores[3])  # all digits
    done = runner("--model", artifact.path, f"--threshold={middle!r}", path)
    assert len(json.loads(done.stdout)[0]["objects"]) == int((seen.scores >= middle).sum()) > 0
    above = runner("--model", artifact.path, f"--threshold={seen.scores[0] + 1e-4}", path)
    assert json.loads(above.stdout)[0]["objects"] == []


def test_oblong_input(runner: Runner, tmp_path: Path) -> None:
    arch = ARCH.with_input(48, 32)
    model = tiny_artifact(tmp_path, tiny_detector(3), arch)
    paths = [write(tmp_path / "a.ppm", picture(31, 77)), write(tmp_path / "b.ppm", picture(90, 20))]
    for rule in RULES:
        changed = with_changes(model, tmp_path / rule.replace(" ", "_"), resize=rule)
        assert check_pictures(runner, changed, paths) > 0


def test_types_are_widened_as_in_python(runner: Runner, tmp_path: Path) -> None:
    """float16 images, scores and boxes, and int32 labels, as other programs export them."""
    random = np.random.default_rng(5)
    values = {
        "scores": random.random((1, 6)).astype(np.float16),
        "labels": np.array([[0, 1, 1, 0, 1, 0]], dtype=np.int32),
        "boxes": np.sort(random.random((1, 6, 4)), axis=-1).astype(np.float16),
    }
    content = detector(tmp_path / "raw.onnx", values, dtype="float16").read_bytes()
    base = tiny_artifact(tmp_path / "base", tiny_detector(masks=False)).manifest
    specs = {spec.name: spec for spec in base.outputs}
    manifest = replace(
        base,
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        inputs=(replace(base.inputs[0], name="images", shape=(1, 3, 48, 64), dtype="float16"),),
        outputs=tuple(
            replace(specs[name], shape=array.shape, dtype=str(array.dtype))
            for name, array in values.items()
        ),
    )
    model = write_artifact(tmp_path / "half.onnx", content, manifest)
    assert check_pictures(runner, model, [write(tmp_path / "a.ppm", picture(20, 30))]) > 3


def test_adopted_file_of_another_program(runner: Runner, tmp_path: Path) -> None:
    """A letterboxed YOLO file: the runner runs what ``adopt`` made of it."""
    rows = np.array(
        [[[8, 6, 40, 30, 0.9, 1], [2, 3, 60, 47, 0.6, 0], [30, 20, 31, 21, 0.2, 1]]], np.float32
    )
    names = {"names": "{0: 'cell', 1: 'other'}", "stride": "32", "imgsz": "[48, 64]"}
    raw = detector(tmp_path / "raw.onnx", {"output0": rows}, metadata=names)
    model = adopt(raw, tmp_path / "adopted.onnx")
    assert "aspect ratio kept" in model.manifest.resize
    paths = [write(tmp_path / "a.ppm", picture(37, 90)), write(tmp_path / "b.ppm", picture(90, 37))]
    assert check_pictures(runner, model, paths) > 2


def test_the_json_is_that_of_predict(
    runner: Runner, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python rounds scores to 4 digits and boxes to 1, and names the drawn file."""
    monkeypatch.chdir(tmp_path)
    shown = write(Path("a.ppm"), picture(70, 50))
    broken = write(Path("b.ppm"), picture(9, 9))
    broken.write_bytes(broken.read_bytes()[:-5])
    arguments = ["--model", str(artifact.path), "--threshold", "0.02", str(shown), str(broken)]
    with pytest.raises(StatedFailure):
        predict.main(arguments)
    whole, cut = json.loads(Path("predictions/predictions.json").read_text())
    done = runner(*arguments)
    assert done.returncode == 1
    entries = json.loads(done.stdout)
    found, failed = entries
    for one in found["objects"]:
        one["score"] = round(one["score"], 4)
        one["box_xyxy"] = [round(side, 1) for side in one["box_xyxy"]]
    assert found == {key: value for key, value in whole.items() if key != "drawn"}
    assert len(found["objects"]) > 0
    assert failed.keys() == cut.keys() == {"image", "path", "error"}


def test_names_and_classes_in_other_scripts(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    names = ("Erythrozyt „rot“", "细胞 \\ \t", "🩸")
    model = with_changes(artifact, tmp_path / "m", class_names=names)
    path = write(tmp_path / "größe 细.ppm", picture(30, 30))
    assert check_pictures(runner, model, [path]) > 0
