"""The predict command on videos and cameras: the drawn video, a line of each frame, and what is
kept of a video that breaks off.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_predict import run, write, write_checkpoint

from rfdetr_repro import predict
from rfdetr_repro.data.media import Medium
from rfdetr_repro.data.video import Frame, VideoFile, frames
from rfdetr_repro.spec.errors import EXIT_FAILED, InputError, run_main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def video(path: Path, count: int = 6, hw: tuple[int, int] = (48, 64), rate: int = 10) -> Path:
    av = pytest.importorskip("av", reason="PyAV is not installed here")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for number in range(count):
            pixels = np.full((*hw, 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_video_gives_a_video_and_a_line_for_each_frame(checkpoint: Path, tmp_path: Path) -> None:
    given = video(tmp_path / "clip.mp4")
    (entry,) = run(checkpoint, tmp_path / "out", given, "--threshold", "0.01")
    assert (entry["frames"], entry["width"], entry["height"]) == (6, 64, 48)
    assert (entry["drawn"], entry["frames_file"]) == ("clip.mp4", "clip.jsonl")
    lines = lines_of(tmp_path / "out" / "clip.jsonl")
    assert [line["frame"] for line in lines] == list(range(6))
    assert [line["time_s"] for line in lines] == pytest.approx([0.1 * n for n in range(6)])
    assert all(line["objects"] for line in lines)
    drawn = list(frames(Medium("video", tmp_path / "out" / "clip.mp4")))
    assert len(drawn) == 6 and drawn[0].pixels.shape == (48, 64, 3)
    assert [one.time_s for one in drawn] == pytest.approx([0.1 * n for n in range(6)], abs=1e-3)


def test_every_nth_frame_and_at_most_some(checkpoint: Path, tmp_path: Path) -> None:
    given = video(tmp_path / "clip.avi", count=9, hw=(34, 46))
    run(checkpoint, tmp_path / "out", given, "--every", "2", "--frames", "3")
    lines = lines_of(tmp_path / "out" / "clip.jsonl")
    assert [line["frame"] for line in lines] == [0, 2, 4]
    assert len(list(frames(Medium("video", tmp_path / "out" / "clip.mp4")))) == 3


def test_frames_of_odd_size_are_those_of_the_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed here")
    writer = VideoFile(tmp_path / "odd.mp4", 10)
    for number in range(3):
        writer.add(Frame(number, number / 10, np.full((33, 47, 3), 90, dtype=np.uint8)))
    assert not (tmp_path / "odd.mp4").exists()
    assert writer.close() == tmp_path / "odd.mp4"
    (first, *_) = frames(Medium("video", tmp_path / "odd.mp4"))
    assert first.pixels.shape == (34, 48, 3) and abs(int(first.pixels[-1, -1, 0]) - 90) < 8
    assert {path.name for path in tmp_path.iterdir()} == {"odd.mp4"}


def test_a_video_that_cannot_be_opened_is_one_clear_error_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="PyAV is not installed here")
    monkeypatch.setattr("rfdetr_repro.data.video._CODECS", ("none-of-this-name",))
    writer = VideoFile(tmp_path / "clip.mp4", 10)
    with pytest.raises(InputError, match="cannot write MP4 video"):
        writer.add(Frame(0, 0.0, np.zeros((32, 48, 3), dtype=np.uint8)))
    assert writer.close() is None and not list(tmp_path.iterdir())


def test_a_video_that_breaks_off_or_is_ended_leaves_valid_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = video(tmp_path / "clip.mp4", count=8)
    seen = predict.Work._detected
    calls = []

    def ends_at_the_fourth(work: Any, decoded: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return seen(work, decoded)

    monkeypatch.setattr(predict.Work, "_detected", ends_at_the_fourth)
    arguments = [str(given), "--model", str(checkpoint), "--out", str(tmp_path / "out")]
    assert run_main(predict.main, arguments) == 130
    assert len(lines_of(tmp_path / "out" / "clip.jsonl")) == 3
    assert len(list(frames(Medium("video", tmp_path / "out" / "clip.mp4")))) == 3
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (entry["frames"], entry["drawn"], entry["frames_file"]) == (3, "clip.mp4", "clip.jsonl")
    monkeypatch.undo()
    (tmp_path / "broken.mp4").write_bytes(given.read_bytes()[:200])
    write(tmp_path / "a.png")
    both = [str(tmp_path / "broken.mp4"), str(tmp_path / "a.png"), *arguments[1:]]
    assert run_main(predict.main, both) == EXIT_FAILED
    broken, whole = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "cannot decode the video" in broken["error"] and "objects" in whole
    assert not list((tmp_path / "out").glob(".*"))


def test_without_the_package_a_video_is_one_clear_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="need the package av, which is not installed; pip"):
        run(checkpoint, tmp_path / "out", tmp_path / "clip.mp4")
    assert not (tmp_path / "out").exists()


def test_a_camera_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed here")
    if Path("/dev/video77").exists():
        pytest.skip("this machine has a camera 77")
    arguments = ["77", "--model", str(checkpoint), "--out", str(tmp_path / "out")]
    assert run_main(predict.main, arguments) == EXIT_FAILED
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "the camera cannot be opened" in entry["error"]
