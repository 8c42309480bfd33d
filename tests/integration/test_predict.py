"""The predict command: which pictures it takes, what it calls their drawn forms, and what it writes
of each.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples_coco import CATEGORIES, picture
from tiny import tiny_detector

from rfdetr_repro import predict
from rfdetr_repro.api import RFDETR
from rfdetr_repro.data.decoding import decode_reduced
from rfdetr_repro.evaluation.predict_images import as_pictures
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import Labels

NAMES = tuple(name for _, name in CATEGORIES)
IDS = tuple(key for key, _ in CATEGORIES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    detector = with_classes(tiny_detector(), Labels(NAMES, IDS))
    save_detector(
        path, detector.state_dict(), ModelCard(detector.config, detector.arch, NAMES, IDS)
    )
    return path


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed=seed)).save(path)
    return path


def run(checkpoint: Path, out: Path, *arguments: object) -> list[dict[str, Any]]:
    predict.main([*map(str, arguments), "--checkpoint", str(checkpoint), "--out", str(out)])
    return json.loads((out / "predictions.json").read_text())


def test_a_folder_stands_for_its_pictures(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/c.png"):
        write(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    found = run(checkpoint, tmp_path / "out", tmp_path / "in", tmp_path / "in" / "a.png")
    # each once, not those of sub-folders
    assert [entry["image"] for entry in found] == ["a.png", "b.JPG"]
    assert [entry["drawn"] for entry in found] == ["a.png", "b.png"]
    assert all((tmp_path / "out" / entry["drawn"]).is_file() for entry in found)


def test_pictures_of_one_name_are_both_drawn(checkpoint: Path, tmp_path: Path) -> None:
    names = ("cam1/0001.jpg", "cam2/0001.jpg", "cam2/0001.png", "x.png")
    given = [write(tmp_path / name, seed) for seed, name in enumerate(names)]
    found = run(checkpoint, tmp_path / "out", *given)
    assert [entry["drawn"] for entry in found] == [
        "cam1/0001.jpg.png",
        "cam2/0001.jpg.png",
        "cam2/0001.png.png",
        "x.png",
    ]
    assert [entry["path"] for entry in found] == [str(path) for path in given]
    assert all((tmp_path / "out" / entry["drawn"]).is_file() for entry in found)
    assert (found[0]["width"], found[0]["height"]) == (60, 40)


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.jpg", "a.jpg.png"),
        ("A.png", "a.jpg"),
        ("x/a.png", "y/a.png", "x/y/a.png"),
        ("../a.png", "a.png"),
        ("a.png.png", "a.png", "a.gif"),
    ],
)
def test_no_two_names_are_the_same(names: tuple[str, ...]) -> None:
    drawn = predict.drawn_names([Path(name) for name in names])
    assert len({str(name).casefold() for name in drawn}) == len(names)
    assert not any(name.is_absolute() or ".." in name.parts for name in drawn)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("https://a.org/dog.jpg", "download the image first"),
        ("empty", "there are no images in the folder"),
        ("absent.png", "the image does not exist"),
    ],
)
def test_what_is_no_picture_is_said_before_a_model_is_loaded(
    what: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    given = what if "://" in what else str(tmp_path / what)
    with pytest.raises(InputError, match=message):
        predict.main([given, "--checkpoint", __file__, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_picture_is_found_before_anything_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    with pytest.raises(
        InputError, match=r"cannot decode the image: the format is unknown \(.*b\.png\)"
    ):
        predict.main(
            [
                str(tmp_path / "in"),
                "--checkpoint",
                __file__,
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert not (tmp_path / "out").exists()


def test_the_caption_names_the_threshold(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    monkeypatch.setattr(
        "rfdetr_repro.plots.figures.detections_figure",
        lambda *_, min_score, **__: drawn.append(min_score),
    )
    run(checkpoint, tmp_path / "out", write(tmp_path / "a.png"), "--threshold", "0.9")
    assert drawn == [0.9]


def test_the_resize_is_said_and_can_be_chosen(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path / "a.png")
    one = run(checkpoint, tmp_path / "out", given, "--threshold", "0")
    assert "resized with antialiasing" in capsys.readouterr().out
    two = run(checkpoint, tmp_path / "out", given, "--threshold", "0", "--no-antialias")
    assert "resized without antialiasing" in capsys.readouterr().out
    assert [entry["score"] for entry in one[0]["objects"]] != [
        entry["score"] for entry in two[0]["objects"]
    ]


def test_boxes_of_a_very_large_picture_are_in_its_own_pixels(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smooth, so that means of blocks are the picture: what is found is the same, in pixels of the
    whole.
    """
    smooth = Image.fromarray(picture(12, 18)).resize((720, 480), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "large.png")
    (whole,) = run(checkpoint, tmp_path / "whole", tmp_path / "large.png", "--threshold", "0.01")
    monkeypatch.setattr(decode_reduced, "__defaults__", (720 * 480 // 4,))
    monkeypatch.setattr(predict, "DRAWN_PIXELS", 10_000)
    (part,) = run(checkpoint, tmp_path / "part", tmp_path / "large.png", "--threshold", "0.01")
    assert (part["width"], part["height"]) == (720, 480) and len(part["objects"]) == len(
        whole["objects"]
    ) > 0
    one, two = (
        np.array([entry["box_xyxy"] for entry in found["objects"]]) for found in (part, whole)
    )
    # ranks of an untrained model may change
    nearest = np.abs(one[:, None] - two[None]).max(axis=2).min(axis=1)
    assert np.median(nearest) < 10
    assert all(entry["mask_rle"]["size"] == [480, 720] for entry in part["objects"])


# -- what RFDETR.predict takes ---------------------------------------------------------------------


def test_one_or_several() -> None:
    image = picture()
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for one in (
        image,
        image[..., 0],
        tensor,
        "a.png",
        Path("a.png"),
        encoded.getvalue(),
        encoded,
        Image.fromarray(image),
    ):
        pictures, many = as_pictures(one)
        assert not many and pictures[0] is one
    batches: list[Any] = [np.stack([image, image]), torch.stack([tensor, tensor])]
    for several in (
        [image, image],
        (image, "a.png"),
        (name for name in ("a.png", "b.png")),
        *batches,
    ):
        pictures, many = as_pictures(several)
        assert many and len(pictures) == 2
    assert as_pictures([]) == ([], True)


def test_the_same_picture_in_every_form_gives_the_same_detections(
    checkpoint: Path, tmp_path: Path
) -> None:
    model = RFDETR(checkpoint, device="cpu")
    image = picture()
    path = write(tmp_path / "a.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    forms = [
        path,
        path.read_bytes(),
        Image.fromarray(image),
        image,
        image / 255,
        tensor,
        tensor / 255,
        (tensor / 255).double(),
    ]
    with open(path, "rb") as stream:
        found = model.detect([*forms, stream], threshold=0.01)
    assert len(found) == 9 and all(
        np.allclose(one.scores, found[0].scores, atol=1e-5) for one in found
    )


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 5, 6),
        torch.zeros(5, 6, 3),
        torch.zeros(3, 5, 6, dtype=torch.int64),
        torch.zeros(3, 5, 6, dtype=torch.bool),
        torch.full((3, 5, 6), float("nan")),
        torch.full((3, 5, 6), 1.001),
        torch.full((3, 5, 6), -0.001).half(),
        np.zeros((5, 6, 3), np.uint16),
        np.zeros((5, 6, 3), bool),
        np.full((5, 6, 3), np.inf, np.float32),
        {"image": 1},
        None,
        7,
    ],
    ids=str,
)
def test_what_is_outside_the_contract_is_refused(wrong: Any, checkpoint: Path) -> None:
    with pytest.raises(InputError):
        RFDETR(checkpoint, device="cpu").detect([wrong])
