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
from samples_coco import picture
from samples_exported import detector as detector_file
from samples_exported import ultralytics
from samples_predict import IDS, NAMES, run, write, write_checkpoint
from tiny import SPACE, tiny_detector

from rfdetr_repro import export_command as export
from rfdetr_repro import predict
from rfdetr_repro.api import RFDETR
from rfdetr_repro.data.decoding import decode_reduced
from rfdetr_repro.data.media import media
from rfdetr_repro.evaluation.predict_images import as_pictures
from rfdetr_repro.model.checkpoints.native import ModelCard, save_detector
from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.spec.errors import EXIT_FAILED, InputError, run_main
from rfdetr_repro.spec.labels import Labels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


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


def test_the_work_goes_on_after_a_broken_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    whole = write(tmp_path / "in" / "c.png", 3).read_bytes()
    (tmp_path / "in" / "c.png").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "in" / "d.jpg")
    (tmp_path / "in" / "e.jpg").symlink_to("gone.jpg")
    arguments = ["--model", str(checkpoint), "--out", str(tmp_path / "out")]
    assert run_main(predict.main, [str(tmp_path / "in"), *arguments]) == EXIT_FAILED
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 4 and lines[3].startswith("failed: 3 of 5 files could not be read")
    assert "b.png" in lines[0] and "c.png" in lines[1] and "e.jpg" in lines[2]
    assert all(line.startswith("error: cannot decode the image") for line in lines[:2])
    assert lines[2].startswith("error: cannot read: No such file")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["image"] for entry in found] == ["a.png", "b.png", "c.png", "d.jpg", "e.jpg"]
    assert ["error" in entry for entry in found] == [False, True, True, False, True]
    assert all(("objects" in entry) != ("error" in entry) for entry in found)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"a.png", "d.png", "predictions.json"}


def test_what_was_done_is_kept_when_the_work_is_ended(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / "in" / name)
    save = predict._save_png

    def ends_at_the_second(pixels: Any, path: Path) -> None:
        if path.name == "b.png":
            raise KeyboardInterrupt
        save(pixels, path)

    monkeypatch.setattr(predict, "_save_png", ends_at_the_second)
    arguments = ["--model", str(checkpoint), "--out", str(tmp_path / "out")]
    assert run_main(predict.main, [str(tmp_path / "in"), *arguments]) == 130
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["image"] == "a.png" and (tmp_path / "out" / "a.png").is_file()


def test_the_picture_is_drawn_at_its_own_size(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(333, 501)).save(tmp_path / "a.png")
    (entry,) = run(checkpoint, tmp_path / "out", tmp_path / "a.png", "--threshold", "0.01")
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        assert drawn.size == (501, 333) == (entry["width"], entry["height"])
        changed = (np.asarray(drawn) != picture(333, 501)).any(axis=2)
    # every side of every box is drawn, at its own place
    for box in (entry["objects"][row]["box_xyxy"] for row in range(3)):
        left, top, right, bottom = (round(value) for value in box)
        assert changed[top:bottom, left : left + 1].mean() > 0.95
        assert changed[bottom - 1 : bottom, left:right].mean() > 0.95


def test_nothing_that_is_read_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(InputError, match="would replace the file that is read"):
        run(checkpoint, tmp_path, path)
    assert path.read_bytes() == before and not (tmp_path / "predictions.json").exists()


def test_an_architecture_outside_of_the_trained_space_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = with_classes(tiny_detector(), Labels(NAMES, IDS))
    for name, space in (("space", SPACE), ("fixed", None)):
        card = ModelCard(detector.config, detector.arch, NAMES, IDS, space)
        save_detector(tmp_path / f"{name}.safetensors", detector.state_dict(), card)
    given = str(write(tmp_path / "a.png"))

    def warned(name: str, arch: str) -> str:
        arguments = ["--model", str(tmp_path / f"{name}.safetensors"), "--arch", arch]
        code = run_main(predict.main, [given, *arguments, "--out", str(tmp_path / "out")])
        assert code == 0
        return capsys.readouterr().err

    assert warned("space", "r48-p12-w1-d1-q5") == ""  # decoder and queries may be dropped
    assert "r80-p16-w1-d2-q10 lies outside the trained space" in warned(
        "space", "r80-p16-w1-d2-q10"
    )
    assert warned("fixed", detector.arch.key) == ""
    told = warned("fixed", "r48-p16-w1-d2-q10")
    assert f"trained as {detector.arch.key} only" in told and told.count("\n") == 1


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_deployed_file_finds_what_the_weights_find(
    checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    given = write(tmp_path / "a.png")
    expected = run(checkpoint, tmp_path / "weights", given, "--threshold", "0.01")
    out = tmp_path / f"m.{'onnx' if kind == 'onnx' else 'safetensors'}"
    export.main(["--model", str(checkpoint), "--out", str(out), "--to", kind])
    found = run(out, tmp_path / "file", given, "--threshold", "0.01")
    assert len(found[0]["objects"]) == len(expected[0]["objects"]) > 0
    for one, two in zip(found[0]["objects"], expected[0]["objects"], strict=True):
        assert one["class"] == two["class"] and one["score"] == pytest.approx(
            two["score"], abs=2e-3
        )
        assert one["box_xyxy"] == pytest.approx(two["box_xyxy"], abs=0.3)


def test_classes_of_a_file_of_another_program(tmp_path: Path) -> None:
    rows = np.array([[[4, 6, 30, 40, 0.9, 0], [10, 2, 50, 20, 0.6, 1]]], dtype=np.float32)
    meta = ultralytics(names=("cat", "dog"), args="{'nms': True}", end2end="True")
    model = detector_file(
        tmp_path / "theirs.onnx", {"output0": rows}, image=(1, 3, 64, 64), metadata=meta
    )
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    (entry,) = run(model, tmp_path / "out", tmp_path / "a.png")
    assert [(one["class"], one["box_xyxy"]) for one in entry["objects"]] == [
        ("cat", [4, 6, 30, 40]),
        ("dog", [10, 2, 50, 20]),
    ]


def test_tiles_of_a_picture(checkpoint: Path, tmp_path: Path) -> None:
    """A mosaic of four pictures, each a tile: what is found is what is found in each alone."""
    tiles = [picture(64, 64, seed) for seed in range(4)]
    mosaic = np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])
    Image.fromarray(mosaic).save(tmp_path / "all.png")
    settings = ("--threshold", "0.01")
    alone = []
    for index, tile in enumerate(tiles):
        Image.fromarray(tile).save(tmp_path / f"{index}.png")
        alone += run(checkpoint, tmp_path / "alone", tmp_path / f"{index}.png", *settings)
    (entry,) = run(
        checkpoint,
        tmp_path / "tiled",
        tmp_path / "all.png",
        *settings,
        "--tiles",
        "64x64",
        "--tile-overlap",
        "0",
    )
    best = max(one["score"] for found in alone for one in found["objects"])
    assert entry["objects"][0]["score"] == pytest.approx(best, abs=1e-4)
    assert 0 < len(entry["objects"]) <= sum(len(found["objects"]) for found in alone)
    assert all(one["mask_rle"]["size"] == [128, 128] for one in entry["objects"])
    with pytest.raises(InputError, match="is no tiling"):
        run(checkpoint, tmp_path / "no", tmp_path / "all.png", "--tiles", "640p")
    assert not (tmp_path / "no").exists()


# -- what it takes ---------------------------------------------------------------------------------


def test_patterns_folders_and_names_on_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.jpg", "sub/c.png", "notes.txt", "[x].png", "clip.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    root = tmp_path / "in"

    def names(*words: str) -> list[str]:
        return [str(one.path.relative_to(root)) for one in media(words)]

    assert names(str(root)) == ["[x].png", "a.png", "b.jpg", "clip.mp4"]
    assert names(f"{root}/*.png") == ["[x].png", "a.png"]
    assert names(f"{root}/**/*.png") == ["[x].png", "a.png", "sub/c.png"]
    assert names(str(root / "[x].png")) == ["[x].png"]  # a file comes before a pattern
    assert names(str(root / "a.png"), str(root), str(root / "a.png"))[0] == "a.png"
    lines = f"{root / 'b.jpg'}\n\n{root / 'sub'}\r\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert names("-") == ["b.jpg", "sub/c.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(InputError, match="no names on the standard input"):
        media(["-"])
    assert [one.kind for one in media([str(root / "clip.mp4"), "0", "12"])] == [
        "video",
        "camera",
        "camera",
    ]
    assert media(["3"])[0].path == Path("/dev/video3")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("https://example.org/a.jpg", "download the image first"),
        ("HTTP://example.org/a.jpg", "download the image first"),
        ("rtsp://10.0.0.1/live", "streams are not opened"),
        ("s3://bucket/key.png", "download the image first"),
        ("none/*.jpg", "no image or video matches the pattern"),
        ("none.jpg", "the image does not exist"),
        ("a\0b", "cannot be read|does not exist"),
        ("x" * 4000, "cannot be read"),
    ],
)
def test_a_word_that_stands_for_nothing(word: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        media([word])


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
