"""Detectors exported by another process: a stand-in package on that process' path, none at all, and
one that fails.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rfdetr_repro.baselines import (
    edge_crafter,
    package,
    yolo_end_to_end,
    yolo_libre,
    yolo_ultralytics,
)
from rfdetr_repro.bench import models
from rfdetr_repro.runtime.session import OrtSession, identity_of
from rfdetr_repro.spec.errors import InputError, StatedFailure

SIDE = 32
ANCHORS = 120
CLASSES = 3
WEIGHTS = 4
FAKE = """
import shutil, torch
__version__ = "0.fake"
class Network(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Identity())
class YOLO:
    def __init__(self, weights):
        if weights == "yolo26x.yaml":
            raise FileNotFoundError("yolo26x.yaml does not exist")
        other = not weights.endswith(".yaml") and open(weights).read() == "of another size"
        self.weights, self.model = weights, Network(9 if other else 7)
    def export(self, **options):
        assert options["nms"] is False and options["format"] == "onnx"
        {body}
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a package ``ultralytics`` whose export runs ``body``; only the other process sees
    it.
    """

    def write(body: str) -> None:
        package = tmp_path / "fake" / "ultralytics"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(FAKE.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    return write


def raw_model(path: Path, masks: bool, rows: bool = False) -> None:
    """A file as the vendor's: (1, 4 + C [+ P], N) or ``rows`` (1, N, 6 [+ P]), and maybe
    prototypes; the scores follow the image.
    """
    numbers = (6 if rows else 4 + CLASSES) + WEIGHTS * masks
    rng = np.random.default_rng(0)
    pattern = rng.uniform(0, 1e-3, (1, numbers, ANCHORS)).astype(np.float32)
    pattern[:, :2] = rng.uniform(4, SIDE - 4, (1, 2, ANCHORS))
    pattern[:, 2:4] = 3.0
    if rows:
        pattern[:, 2:4] += pattern[:, :2]
        pattern[:, 5] = rng.integers(0, CLASSES, (1, ANCHORS))
        pattern = pattern.transpose(0, 2, 1)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["pattern", "nothing"], ["output0"]),
    ]
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, pattern.shape)]
    constants = [("pattern", pattern), ("zero", np.float32(0))]
    if masks:
        constants.append(("flat", rng.normal(size=(1, WEIGHTS, 8, 8)).astype(np.float32)))
        nodes.append(helper.make_node("Add", ["flat", "nothing"], ["output1"]))
        outputs.append(
            helper.make_tensor_value_info("output1", TensorProto.FLOAT, [1, WEIGHTS, 8, 8])
        )
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    initial = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    graph = helper.make_graph(nodes, "raw", [images], outputs, initial)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


@pytest.mark.parametrize("name", ["yolov8-n", "yolo11-x-seg"])
def test_a_raw_export_becomes_an_artifact_that_says_what_it_is(
    name: str, fake, tmp_path: Path, monkeypatch
) -> None:
    raw_model(tmp_path / "vendor.onnx", "seg" in name)
    fake(f"return shutil.copy({str(tmp_path / 'vendor.onnx')!r}, 'anything.onnx')")
    monkeypatch.setattr(package, "INJECTED", 20)
    artifact = models.model_artifact(name, tmp_path / "models")
    manifest = artifact.manifest
    assert (manifest.model.name, manifest.model.size) == (
        ("YOLOv8", "N") if name == "yolov8-n" else ("YOLOv11", "XL")
    )
    assert manifest.model.weights == "random" and manifest.params == 6 * 7 + 7
    assert (
        manifest.packages["ultralytics"] == "0.fake"
        and manifest.packages["injected_candidates"] == "20"
    )
    options = identity_of(artifact, "onnxruntime-cpu", "a").options.split()
    assert options[0] == "a" and {
        "nms=operator",
        "injected_candidates=20",
        "resize=plain-letterbox",
    } <= set(options)
    found = OrtSession(artifact, threads=1).run(np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert 0 < (found.scores[0] > 0.4).sum() <= 20 and (found.masks is None) == (name == "yolov8-n")
    assert sorted(path.suffix for path in (tmp_path / "models").iterdir()) == [".json", ".onnx"]


def test_another_number_of_candidates_is_another_file(fake, tmp_path: Path) -> None:
    raw_model(tmp_path / "vendor.onnx", False)
    fake(f"return shutil.copy({str(tmp_path / 'vendor.onnx')!r}, 'anything.onnx')")
    made = {
        count: models.model_artifact("yolov8-n", tmp_path / "models", inject=count)
        for count in (0, 7, None)
    }
    told = {
        count: artifact.manifest.packages["injected_candidates"] for count, artifact in made.items()
    }
    assert (
        told == {0: "0", 7: "7", None: str(package.INJECTED)}
        and len({artifact.sha256 for artifact in made.values()}) == 3
    )
    assert (
        models.model_artifact("yolov8-n", tmp_path / "models", inject=package.INJECTED).path
        == made[None].path
    )


def test_the_users_weights_are_copied_and_nothing_is_injected(fake, tmp_path: Path) -> None:
    raw_model(tmp_path / "vendor.onnx", False)
    fake(
        f"assert open(self.weights).read() == 'theirs'; return "
        f"shutil.copy({str(tmp_path / 'vendor.onnx')!r}, 'x.onnx')"
    )
    (tmp_path / "mine.pt").write_text("theirs")
    manifest = models.model_artifact(
        "yolov8-s", tmp_path / "models", checkpoint=tmp_path / "mine.pt"
    ).manifest
    assert manifest.model.weights == "trained" and manifest.model.checkpoint_sha256
    assert (
        "injected_candidates" not in manifest.packages
        and (tmp_path / "mine.pt").read_text() == "theirs"
    )


@pytest.mark.parametrize("name", ["yolo26-n", "yolo26-n-seg"])
def test_an_end_to_end_export_needs_no_suppression(name: str, fake, tmp_path: Path) -> None:
    """YOLO26 chooses its detections itself: no candidate is injected, and none is removed."""
    raw_model(tmp_path / "vendor.onnx", "seg" in name, rows=True)
    fake(f"return shutil.copy({str(tmp_path / 'vendor.onnx')!r}, 'anything.onnx')")
    artifact = models.model_artifact(name, tmp_path / "models")
    manifest = artifact.manifest
    assert (manifest.model.name, manifest.model.size) == ("YOLO26", "N")
    assert manifest.model.task == ("segment" if "seg" in name else "detect")
    assert manifest.model.weights == "random" and manifest.params == 6 * 7 + 7
    assert not {"nms", "injected_candidates"} & set(manifest.packages)
    found = OrtSession(artifact, threads=1).run(np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert found.scores.shape == (1, ANCHORS) and (np.diff(found.scores[0]) <= 0).all()
    assert np.ptp(found.boxes_xyxy, axis=1).max() > 0.5  # pixels became parts of the image
    assert found.boxes_xyxy.min() >= 0 and found.boxes_xyxy.max() <= 1
    assert (found.masks is None) == (name == "yolo26-n")


def test_weights_of_another_model_are_one_line(fake, tmp_path: Path) -> None:
    raw_model(tmp_path / "vendor.onnx", False)
    fake(f"return shutil.copy({str(tmp_path / 'vendor.onnx')!r}, 'anything.onnx')")
    (tmp_path / "mine.pt").write_text("of another size")
    told = (
        r"the weights are not of yolov8s: they have 63 parameters and the head Identity, not 49 "
        r".*; name the model and the size that the weights are of"
    )
    with pytest.raises(InputError, match=told):
        models.model_artifact("yolov8-s", tmp_path / "models", checkpoint=tmp_path / "mine.pt")
    assert not list((tmp_path / "models").iterdir())


def test_a_version_without_the_model_is_one_line(fake, tmp_path: Path) -> None:
    fake("return None")
    told = r"ultralytics 0.fake has no yolo26x: yolo26x.yaml does not exist.*install a version"
    with pytest.raises(InputError, match=told):
        models.model_artifact("yolo26-x", tmp_path / "models")


def test_weights_that_a_program_does_not_load_are_refused(tmp_path: Path) -> None:
    """They would be measured as trained and be random."""
    (tmp_path / "mine.pt").write_text("theirs")
    with pytest.raises(InputError, match=r"yolox-s is built with random .*mine.pt.*--onnx FILE"):
        models.model_artifact("yolox-s", tmp_path / "made", checkpoint=tmp_path / "mine.pt")
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('no such opset')", "no such opset"),
        ("import os; os._exit(0)", "exit code 0"),
    ],
)
def test_an_export_that_fails_is_one_line(body: str, told: str, fake, tmp_path: Path) -> None:
    fake(body)
    with pytest.raises(StatedFailure, match=told) as failure:
        models.model_artifact("yolov8-n", tmp_path / "models")
    assert "ultralytics did not export yolov8n" in str(failure.value) and "\n" not in str(
        failure.value
    )
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    ("name", "baseline"),
    [("yolo11-m", yolo_ultralytics.BASELINE), ("yolox-s", yolo_libre.BASELINE)],
)
def test_an_absent_package_is_one_line_that_says_how_to_go_on(
    name: str, baseline, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "none" / baseline.package_name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    with pytest.raises(
        InputError,
        match=f"needs {baseline.package_name}.*pip install {baseline.package_name}.*"
        f"{baseline.variable}.*--onnx FILE",
    ):
        models.model_artifact(name, tmp_path / "models")
    monkeypatch.setenv(baseline.variable, str(tmp_path / "no-python"))
    with pytest.raises(InputError, match=f"{baseline.package_name} cannot be run"):
        models.model_artifact(name, tmp_path / "models")


def test_every_size_has_the_name_it_has_there() -> None:
    given = {size.key for size in yolo_ultralytics.BASELINE.sizes}
    expected = {
        f"yolo{family}{size}{seg}"
        for family in ("v8", "11", "12")
        for size in "nsmlx"
        for seg in ("", "-seg")
    }
    expected |= {f"yoloe-{family}{size}-seg" for family in ("v8", "11") for size in "sml"}
    assert given == expected | {"yoloe-v8m"}
    assert {size.key for size in yolo_end_to_end.BASELINE.sizes} == {
        f"yolo26{size}{seg}" for size in "nsmlx" for seg in ("", "-seg")
    }
    assert len(yolo_libre.BASELINE.sizes) == 10


LIBRE = """
import torch
__version__ = "0.fake"
class Head(torch.nn.Module):
    export = False
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = Head()
        self.grid = torch.nn.Conv2d(3, 85, 32, stride=32)
    def forward(self, images):
        assert self.head.export and images.shape[-1] == SIDE
        rows = self.grid(images).flatten(2).transpose(1, 2)
        return torch.cat([rows[..., :4].abs() * 100, rows[..., 4:].sigmoid()], -1)
class LibreYOLOX:
    def __init__(self, weights, size, device):
        assert weights is None and device == "cpu"
        self.model = Net()
class LibreYOLO9(LibreYOLOX): ...
"""


@pytest.mark.parametrize(("name", "side"), [("yolox-n", 416), ("yolox-s", 640)])
def test_libreyolo_exports_at_the_side_of_its_size(
    name: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's side and that of the data file are the same."""
    folder = tmp_path / "fake" / "libreyolo"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(LIBRE.replace("SIDE", str(side)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.chdir(tmp_path)
    work = Path("work")  # as under the default of --out, which is relative
    work.mkdir()
    (size,) = [size for size in yolo_libre.BASELINE.sizes if size.id == name]
    exported = yolo_libre.BASELINE.raw(size, work)
    shape = onnx.load(exported.path).graph.input[0].type.tensor_type.shape
    assert tuple(side.dim_value for side in shape.dim) == (1, 3, *size.hw)
    assert size.hw == (side, side) and exported.params == 85 * 3 * 32 * 32 + 85
    assert exported.versions["libreyolo"] == "0.fake"


CRAFTER = """
import torch
__version__ = "0.fake"
class Net(torch.nn.Module):
    def __init__(self, masks):
        super().__init__()
        self.grid = torch.nn.Conv2d(3, 4 + 7 + 100 * masks, 64, stride=64)
        self.masks, self.deployed = masks, False
    def deploy(self):
        self.deployed = True
        return self
    def forward(self, images):
        assert self.deployed
        rows = self.grid(images).flatten(2).transpose(1, 2)
        found = {"pred_logits": rows[..., 4:11], "pred_boxes": rows[..., :4].sigmoid()}
        return found | ({"pred_masks": rows[..., 11:].unflatten(2, (10, 10))} if self.masks else {})
class LibreEC:
    def __init__(self, weights, size, device, task):
        assert weights is None and device == "cpu" and size in "smlx"
        self.model = Net(task == "segment")
"""


@pytest.mark.parametrize("name", [pytest.param("ec-s", marks=pytest.mark.parity), "ec-l-seg"])
def test_edgecrafter_by_libreyolo(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is exported deployed, with named outputs, and counted by PyTorch's counter."""
    folder = tmp_path / "fake" / "libreyolo"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CRAFTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    artifact = models.model_artifact(name, tmp_path / "models")
    manifest = artifact.manifest
    numbers = 4 + 7 + 100 * ("seg" in name)
    assert manifest.model.name == "EdgeCrafter" and manifest.model.weights == "random"
    assert manifest.params == numbers * (3 * 64 * 64 + 1)
    assert manifest.normalisation.startswith("imagenet") and len(manifest.outputs) == 3 + (
        "seg" in name
    )
    found = OrtSession(artifact, threads=1).run(np.zeros((1, 3, 640, 640), np.float32))
    assert found.scores.shape == (1, 100)
    (size,) = [size for size in edge_crafter.BASELINE.sizes if size.id == name]
    counts = edge_crafter.BASELINE.counts(size)
    expected = (manifest.params, 2.0 * 3 * 64 * 64 * numbers * 100)
    assert counts["flopcountermode", "deployed"] == expected
    assert counts["products with weights", "deployed"] == expected
