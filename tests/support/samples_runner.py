"""The C++ runner (csrc/deploy): how the tests build and call it, and what they compare."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from rfdetr_repro.data.decoding import decode_reduced
from rfdetr_repro.export.artifact import Artifact, write_artifact
from rfdetr_repro.runtime.predictors import FilePredictor
from rfdetr_repro.runtime.session import OrtSession

SOURCES = Path(__file__).parents[2] / "csrc" / "deploy"
LIBRARY = Path(onnxruntime.__file__).parent / "capi"
PROBE = """#include <charconv>
#include <string_view>
std::to_chars_result text(char* to, float value) { return std::to_chars(to, to + 32, value); }
bool starts(std::string_view word) { return word.starts_with("a"); }
"""  # what the sources need of the standard library
THRESHOLD = 0.0  # all detections are compared


def missing() -> str:
    """Why the runner cannot be built here; empty where it can be built."""
    if shutil.which("cmake") is None:
        return "CMake is not installed"
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return "there is no C++ compiler"
    command = [compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=PROBE, text=True, capture_output=True).returncode != 0:
        return "the C++ compiler lacks parts of C++20"
    if not list(LIBRARY.glob("libonnxruntime.so.*")):
        return "the onnxruntime package holds no libonnxruntime.so"
    return ""


@dataclass(frozen=True)
class Runner:
    """The built program, and how CMake configured it."""

    program: Path
    cache: str

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def reads(self, name: str) -> bool:
        """Whether the program was built with the library ``name`` (JPEG or PNG)."""
        return re.search(rf"^{name}_LIBRARY(_RELEASE)?:FILEPATH=/", self.cache, re.M) is not None


def with_changes(artifact: Artifact, folder: Path, **changes: Any) -> Artifact:
    """The same file with another manifest, in a folder of its own."""
    manifest = replace(artifact.manifest, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    return write_artifact(folder / "model.onnx", artifact.path.read_bytes(), manifest)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours and noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = random.integers(-40, 41, smooth.shape)
    return np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def check_equal(entry: dict[str, Any], path: Path, artifact: Artifact, threads: int = 2) -> int:
    """Compares an entry of the runner with Python's detections in the same file; returns their
    number.
    """
    predictor = FilePredictor(OrtSession(artifact, threads), artifact.path.name)
    decoded = decode_reduced(path)
    seen = predictor(decoded, THRESHOLD)
    manifest = artifact.manifest
    assert (entry["image"], entry["path"]) == (path.name, str(path))
    assert (entry["height"], entry["width"]) == decoded.size_hw
    found = entry["objects"]
    assert [one["category_id"] for one in found] == [manifest.category_ids[k] for k in seen.labels]
    assert [one["class"] for one in found] == [manifest.class_names[k] for k in seen.labels]
    assert np.allclose([one["score"] for one in found], seen.scores, rtol=0, atol=1e-5)
    boxes = np.array([one["box_xyxy"] for one in found]).reshape(-1, 4)
    assert np.allclose(boxes, seen.boxes_xyxy, rtol=0, atol=1e-3)
    masks = [] if seen.masks is None else seen.masks.rles()
    assert [one["mask_rle"] for one in found if "mask_rle" in one] == masks
    return len(found)


def check_pictures(runner: Runner, artifact: Artifact, paths: Sequence[Path]) -> int:
    done = runner("--model", artifact.path, "--threshold", THRESHOLD, *paths)
    assert (done.returncode, done.stderr) == (0, "")
    entries = json.loads(done.stdout)
    assert len(entries) == len(paths)
    return sum(
        check_equal(entry, path, artifact) for entry, path in zip(entries, paths, strict=True)
    )


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert re.search(words, done.stderr)
