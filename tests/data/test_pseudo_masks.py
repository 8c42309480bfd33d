"""Boxes to masks by SAM 2: a tiny random model, what is filtered, and a run that goes on where it
was stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from samples_sam import write_sam

from rfdetr_repro.data import pseudo_masks as module
from rfdetr_repro.data import pseudo_masks_command
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.data.formats.layouts import locate
from rfdetr_repro.data.pseudo_masks import Filter, Sam2, box_of, judge, pseudo_label
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.errors import InputError, run_main

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Sam2:
    return Sam2(write_sam(tmp_path_factory.mktemp("sam2")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set whose train split has boxes only, in a sub-folder of images, one object with a
    mask of its own, one crowd.
    """
    config = EmbeddedConfig(64, train_images=3, val_images=1, test_images=1)
    write_embedded(tmp_path / "data", config, workers=1)
    path = tmp_path / "data/annotations/instances_train.json"
    document = json.loads(path.read_text())
    for annotation in document["annotations"][1:]:
        del annotation["segmentation"]
    document["annotations"][1]["iscrowd"] = 1
    (tmp_path / "data/train/part").mkdir()
    for image in document["images"]:
        (tmp_path / "data/train" / image["file_name"]).rename(
            tmp_path / "data/train/part" / image["file_name"]
        )
        image["file_name"] = "part/" + image["file_name"]
    path.write_text(json.dumps(document))
    return tmp_path / "data"


def test_every_object_gets_a_segmentation_that_trains(folder: Path, sam: Sam2) -> None:
    path = folder / "annotations/instances_train.json"
    before = json.loads(path.read_text())
    assert not read_split(folder, "train").has_masks
    verdicts = pseudo_label(folder, "train", sam, folder / "masks.json", Filter(0.0, 0.0))
    (folder / "masks.json").replace(path)
    after = json.loads(path.read_text())
    split = read_split(folder, "train")
    assert split.has_masks and split.sample(0, masks=True).masks.shape[1:] == (64, 64)
    assert sum(verdicts.values()) == len(before["annotations"]) - 2
    assert (
        after["annotations"][0] == before["annotations"][0]
        and "segmentation" not in after["annotations"][1]
    )
    assert (
        after["images"] == before["images"] and after["info"]["pseudo_masks"]["smallest_iou"] == 0.0
    )
    for old, new in zip(before["annotations"][2:], after["annotations"][2:], strict=True):
        assert new["bbox"] == old["bbox"] and new["pseudo_mask"] in ("kept", "empty")
    assert not list(folder.rglob("*.partial"))


def test_masks_follow_the_image_and_the_box(sam: Sam2) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    boxes = np.array([[4, 4, 40, 30], [10, 20, 70, 40]], float)
    together = list(sam.masks(image, boxes))
    alone = [next(iter(sam.masks(image, boxes[row : row + 1]))) for row in range(2)]
    assert [mask.shape for mask, _ in together] == [(48, 80)] * 2
    assert all(
        np.mean(one[0] == two[0]) > 0.99 and abs(one[1] - two[1]) < 1e-4
        for one, two in zip(together, alone, strict=True)
    )


def test_filter() -> None:
    mask = np.zeros((20, 30), bool)
    assert box_of(mask) is None and judge(mask, 1.0, np.array([0, 0, 5, 5.0]), Filter()) == "empty"
    mask[5:15, 10:20] = True
    assert box_of(mask).tolist() == [10, 5, 20, 15]
    assert judge(mask, 0.9, np.array([10, 5, 20, 15.0]), Filter()) == "kept"
    assert judge(mask, 0.4, np.array([10, 5, 20, 15.0]), Filter()) == "not trusted"
    assert judge(mask, 0.9, np.array([10, 5, 30, 20.0]), Filter()) == "off the box"  # IoU 100 / 300


def test_a_stopped_run_goes_on(
    folder: Path, sam: Sam2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = module.label_image
    calls = []

    def counted(sam: Sam2, image: np.ndarray, boxes: np.ndarray, limits: Filter) -> list[dict]:
        if len(calls) == 2:
            calls.append("stopped")
            raise KeyboardInterrupt
        calls.append("done")
        return plain(sam, image, boxes, limits)

    monkeypatch.setattr(module, "label_image", counted)
    out = tmp_path / "out.json"
    partial = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(folder, "train", sam, out)
    assert not out.exists() and partial.read_text().count("\n") == 3
    with partial.open("a") as stream:
        stream.write('{"image": 2, "ro')  # a torn line
    with pytest.raises(InputError, match="unfinished work on other data"):
        pseudo_label(folder, "train", sam, out, Filter(0.9, 0.9))
    pseudo_label(folder, "train", sam, out)
    assert calls == ["done", "done", "stopped", "done"]
    pseudo_label(folder, "train", sam, tmp_path / "whole.json")
    assert out.read_text() == (tmp_path / "whole.json").read_text()


def test_no_model_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--data",
        str(folder),
        "--model",
        str(tmp_path),
        "--out",
        str(tmp_path / "out.json"),
    ]
    assert run_main(pseudo_masks_command.main, arguments) == 2
    assert capsys.readouterr().err.startswith("error: no SAM 2 model")
    assert run_main(pseudo_masks_command.main, [*arguments, "--smallest-iou", "2"]) == 2


def test_the_boxes_are_not_written_over(folder: Path, sam: Sam2) -> None:
    source = locate(DataSource(folder), "train").path
    before = source.read_bytes()
    with pytest.raises(InputError, match="this is the file that is being read"):
        pseudo_label(folder, "train", sam, source)
    assert source.read_bytes() == before


def test_data_are_checked_before_the_model_is_looked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [1, 1, -5, 5]
    path.write_text(json.dumps(document))
    (folder / "empty").mkdir()
    arguments = [
        "--data",
        str(folder),
        "--model",
        str(folder / "empty"),
        "--out",
        str(folder / "out.json"),
    ]
    assert run_main(pseudo_masks_command.main, arguments) == 2
    assert "box of negative size" in capsys.readouterr().err and not (folder / "out.json").exists()


def test_ids_as_text_and_floats_are_those_of_the_split(folder: Path, sam: Sam2) -> None:
    path = folder / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    for entry in document["annotations"]:
        entry["image_id"] = float(entry["image_id"])
    path.write_text(json.dumps(document))
    assert (
        sum(pseudo_label(folder, "train", sam, folder / "out.json").values())
        == len(document["annotations"]) - 2
    )


@pytest.mark.parametrize("content", [b"[]\n", b'{"key": 1}\n[1]\n', b"\xff\n", b"[" * 5000 + b"\n"])
def test_a_foreign_file_beside_the_result_is_refused(
    folder: Path, sam: Sam2, content: bytes
) -> None:
    (folder / "out.json.partial").write_bytes(content)
    with pytest.raises(InputError, match="does not hold unfinished work"):
        pseudo_label(folder, "train", sam, folder / "out.json")
    assert (folder / "out.json.partial").read_bytes() == content
