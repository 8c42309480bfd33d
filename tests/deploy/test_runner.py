"""The C++ runner (csrc/deploy) against Python's own predictor: the same pixels give the same
labels, scores, boxes and masks; what cannot be run is refused in one line.
"""

from __future__ import annotations

import dataclasses
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
import onnx
import onnxruntime
import pytest
from PIL import Image, features
from samples_export import ARCH, meta, tiny_artifact, tiny_detector
from samples_exported import detector

from rfdetr_repro import predict
from rfdetr_repro.data.decoding import decode_reduced
from rfdetr_repro.export.adopt.adoption import adopt
from rfdetr_repro.export.artifact import (
    Artifact,
    Manifest,
    load_artifact,
    manifest_path,
    write_artifact,
)
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.runtime.predictors import FilePredictor
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.resize_rules import RULES

SOURCES = Path(__file__).parents[2] / "csrc" / "deploy"
LIBRARY = Path(onnxruntime.__file__).parent / "capi"
PROBE = """#include <charconv>
#include <string_view>
std::to_chars_result text(char* to, float value) { return std::to_chars(to, to + 32, value); }
bool starts(std::string_view word) { return word.starts_with("a"); }
"""  # what the sources need of the standard library
TURBO = """#include <cstdio>
#include <jpeglib.h>
#ifndef LIBJPEG_TURBO_VERSION
#error another library
#endif
"""
THRESHOLD = 0.0  # all detections are compared
pytestmark = pytest.mark.slow


def _missing() -> str:
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


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    if why := _missing():
        pytest.skip(why)
    build = tmp_path_factory.mktemp("runner")
    configure = ["cmake", "-S", str(SOURCES), "-B", str(build), f"-DONNXRUNTIME_ROOT={LIBRARY}"]
    for command in (
        [*configure, "-DCMAKE_CXX_FLAGS_RELEASE=-O1"],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    return Runner(build / "rfdetr-predict", cache)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with masks and random weights, whose outputs depend on the picture."""
    return tiny_artifact(tmp_path_factory.mktemp("artifact"))


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


# -- pictures --------------------------------------------------------------------------------------


def test_pixels_of_png_files(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    if not runner.reads("PNG"):
        pytest.skip("libpng's headers are not installed")
    pixels = picture(40, 60)
    grey = pixels[..., 0]
    alpha = np.dstack([pixels, 255 - grey])
    turned = Image.Exif()
    turned[0x0112] = 6
    paths = [
        write(tmp_path / "rgb.png", pixels),
        write(tmp_path / "grey.png", grey),
        write(tmp_path / "alpha.png", alpha),
        write(tmp_path / "grey_alpha.png", np.dstack([grey, 255 - grey])),
        write(tmp_path / "wide.png", grey.astype(np.uint16) * 250 + 13),
        write(tmp_path / "bits.png", grey > 128),
        write(tmp_path / "turned.png", pixels, exif=turned),
    ]
    palette = Image.fromarray(pixels).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=3)
    palette.save(tmp_path / "palette4.png", bits=4)
    paths += [tmp_path / "palette.png", tmp_path / "palette4.png"]
    assert check_pictures(runner, artifact, paths) > 0


def _skip_without_jpeg(runner: Runner) -> None:
    """Skips where the program does not decode JPEG files by libjpeg-turbo, as Pillow does: other
    decoders may differ in the last bit, and then the pictures do.
    """
    if not runner.reads("JPEG"):
        pytest.skip("libjpeg's headers are not installed")
    command = [os.environ.get("CXX", "c++"), "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=TURBO, text=True, capture_output=True).returncode != 0:
        pytest.skip("the system's JPEG library is not libjpeg-turbo")
    if not features.check_feature("libjpeg_turbo"):
        pytest.skip("Pillow's JPEG decoder is not libjpeg-turbo")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_as_viewers_show_it(
    runner: Runner, artifact: Artifact, tmp_path: Path, orientation: int
) -> None:
    """The colours of large even blocks are the same in every decoder."""
    _skip_without_jpeg(runner)
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(picture(2, 3) // 64 * 64, np.ones((32, 32, 1), np.uint8))
    path = write(tmp_path / "a.jpg", blocks, exif=exif, subsampling=0, quality=100)
    assert check_pictures(runner, artifact, [path]) > 0


def test_kinds_of_jpeg(runner: Runner, artifact: Artifact, tmp_path: Path) -> None:
    """Even blocks again: progressive, grey, CMYK, and an orientation that only XMP states."""
    _skip_without_jpeg(runner)
    blocks = np.kron(picture(3, 4) // 64 * 64, np.ones((32, 32, 1), np.uint8))
    tag = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="8"></x:xmpmeta>'
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "progressive": ("RGB", {"progressive": True}),
        "grey": ("L", {}),
        "cmyk": ("CMYK", {}),
        "xmp": ("RGB", {"xmp": tag}),
        "small": ("RGB", {"subsampling": 2}),
    }
    paths = []
    for name, (mode, how) in kinds.items():
        paths.append(tmp_path / f"{name}.jpg")
        Image.fromarray(blocks).convert(mode).save(paths[-1], quality=100, **how)
    assert decode_reduced(paths[3]).size_hw == (128, 96)
    assert check_pictures(runner, artifact, paths) > 0


@pytest.mark.parametrize(
    ("kind", "white"), [(b"P5", 255), (b"P6", 255), (b"P6", 100), (b"P5", 65535), (b"P5", 1000)]
)
def test_netpbm(
    runner: Runner, artifact: Artifact, tmp_path: Path, kind: bytes, white: int
) -> None:
    height, width, channels = 23, 31, 3 if kind == b"P6" else 1
    values = np.random.default_rng(white).integers(0, white + 1, (height, width, channels))
    content = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    path = tmp_path / "a.pnm"
    header = b"%s\n# a comment\n%d # another\n %d\n%d\n" % (kind, width, height, white)
    path.write_bytes(header + content)
    assert check_pictures(runner, artifact, [path]) > 0


def test_a_very_large_picture_becomes_means_of_blocks(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    width, height = 9001, 7501  # more than 2^26 px, and no multiple of the blocks
    row = np.random.default_rng(0).integers(0, 256, (1, width, 3), dtype=np.uint8)
    rows = np.arange(height, dtype=np.uint8)[:, None, None]
    path = tmp_path / "large.ppm"
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + (row + rows).tobytes())
    assert check_pictures(runner, artifact, [path]) > 0


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


# -- bad input -------------------------------------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert re.search(words, done.stderr)


def test_a_broken_picture_does_not_stop_the_others(
    runner: Runner, artifact: Artifact, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.ppm", picture(20, 20))
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(good.read_bytes()[:-1])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    named = [cut, good, text, tmp_path, empty]
    done = runner("--model", artifact.path, "--threshold", THRESHOLD, *named)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    entries = json.loads(done.stdout)
    assert [entry["path"] for entry in entries] == list(map(str, named))
    assert ["error" in entry for entry in entries] == [True, False, True, True, True]
    assert [f"error: {entry['error']}" for entry in entries if "error" in entry] == lines
    assert all(
        str(path) in line for path, line in zip([cut, text, tmp_path, empty], lines, strict=True)
    )
    check_equal(entries[1], good, artifact)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_an_error(
    runner: Runner, artifact: Artifact, tmp_path: Path, suffix: str
) -> None:
    if not runner.reads({"jpg": "JPEG", "png": "PNG"}[suffix]):
        pytest.skip(f"the headers of the {suffix} library are not installed")
    path = write(tmp_path / f"a.{suffix}", picture(60, 60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = runner("--model", artifact.path, path)
    assert done.returncode == 1 and "cannot decode the image" in done.stderr
    assert len(done.stderr.splitlines()) == 1


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
