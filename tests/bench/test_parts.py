"""The parts of a latency: known durations by a clock that only the work moves, resumption, bad
input, and what post-processing gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_bench import COUNT, FakeSession, fake_artifact
from samples_coco import random_document, write_folder

from rfdetr_repro.bench import cells
from rfdetr_repro.bench import confirm as confirming
from rfdetr_repro.bench import parts as module
from rfdetr_repro.bench.cells import Context, Row
from rfdetr_repro.bench.command.run import main
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.bench.intervals import recompute
from rfdetr_repro.bench.parts import (
    WARM_UP,
    Frame,
    Wanted,
    found_in,
    frame_of,
    measure_parts,
    sample_parts,
    synthetic_frame,
)
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.export import trial
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.samples import Series, load_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime import backends
from rfdetr_repro.runtime.session import Detections
from rfdetr_repro.spec.errors import StatedFailure, run_main
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.resize_rules import LETTERBOX
from rfdetr_repro.tables import command as tables

QUICK: dict[str, Any] = dict(warmup=1, min_samples=32, max_samples=32, buffer_ms=0.0)
PROTOCOL = Protocol(**QUICK)
SIZES = ((6, 8), (12, 16))
NS_PER_PIXEL = {"decoding": 700, "preprocessing": 50, "postprocessing": 11}
NETWORK_NS = {"bind": 1_000, "launch": 40_000, "outputs": 300}


class World:
    """A clock that only the parts of the work move, and a log of them."""

    def __init__(self) -> None:
        self.ns = 0
        self.log: list[tuple[str, int]] = []

    def now_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a closed loop does not wait")

    def work(self, name: str, ns: int, pixels: int) -> None:
        self.log.append((name, pixels))
        self.ns += ns


class TimedSession(FakeSession):
    """Takes NETWORK_NS of the clock."""

    world = World()

    def bind(self, images: np.ndarray) -> None:
        super().bind(images)
        self.world.ns += NETWORK_NS["bind"]

    def launch(self) -> None:
        self.world.ns += NETWORK_NS["launch"]

    def outputs(self) -> Detections:
        found = super().outputs()
        self.world.work("network", NETWORK_NS["outputs"], 0)
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Each part takes a known time per pixel of the frame."""
    made = World()
    monkeypatch.setattr(TimedSession, "world", made)

    def slow(name: str, real: Callable[..., Any], pixels_of: Callable[..., int]) -> None:
        def call(*given: Any, **named: Any) -> Any:
            pixels = pixels_of(*given)
            made.work(name, NS_PER_PIXEL[name] * pixels, pixels)
            return real(*given, **named)

        monkeypatch.setattr(module, real.__name__, call)

    slow("decoding", module.decode, lambda encoded: module.Image.open(_stream(encoded)).width ** 2)
    slow("preprocessing", module.network_input, lambda pictures, *_: pictures[0][..., 0].size)
    slow("postprocessing", module.found_in, lambda _, __, size_hw, ___: size_hw[0] * size_hw[1])
    return made


def _stream(encoded: bytes) -> Any:
    return module.io.BytesIO(encoded)


def row(folder: Path, kind: Callable[..., FakeSession] = FakeSession, name: str = "m") -> Row:
    artifact = fake_artifact(folder, name)
    return Row(artifact, lambda build: kind(artifact))


def medians(record: Record) -> list[tuple[int, int, float | None]]:
    assert record.latency is not None
    return [
        (one.height, one.width, one.decoding and one.decoding.median_ms)
        for one in record.latency.parts or ()
    ]


# -- known answers ---------------------------------------------------------------------------------


def test_every_part_is_charged_with_its_own_work_and_nothing_else(
    world: World, tmp_path: Path
) -> None:
    session = TimedSession(fake_artifact(tmp_path))
    frames = [synthetic_frame(8, 8, encoded=True), synthetic_frame(16, 16, encoded=True)]
    taken = sample_parts(session, frames, range(5), clock=world)
    for one, pixels in zip(taken, (64, 256), strict=True):
        wanted = {name: ns * pixels / 1e6 for name, ns in NS_PER_PIXEL.items()}
        wanted["network"] = sum(NETWORK_NS.values()) / 1e6
        assert list(one.ms) == ["decoding", "preprocessing", "network", "postprocessing"]
        for name, ms in one.ms.items():
            np.testing.assert_allclose(ms, [wanted[name]] * 5, rtol=1e-6)  # stored as float32


def test_parts_and_frames_are_interleaved_sample_by_sample(world: World, tmp_path: Path) -> None:
    session = TimedSession(fake_artifact(tmp_path))
    frames = [synthetic_frame(*size) for size in SIZES]
    sample_parts(session, frames, range(64), clock=world)
    whole = ["preprocessing", "network", "postprocessing"]
    assert [name for name, _ in world.log] == whole * ((WARM_UP + 64) * len(frames))
    order = [pixels for name, pixels in world.log if name == "preprocessing"]
    rounds = [tuple(order[at : at + 2]) for at in range(2 * WARM_UP, len(order), 2)]
    assert set(rounds) == {(48, 192), (192, 48)}  # both orders, and each frame once per round


def test_medians_and_intervals_are_those_of_the_samples(world: World, tmp_path: Path) -> None:
    session = TimedSession(fake_artifact(tmp_path))
    saved: list[Series] = []

    def save(series: Series) -> str:
        saved.append(series)
        return str(len(saved))

    (one,) = measure_parts(session, Wanted((SIZES[0],)), PROTOCOL, save, clock=world)
    assert (one.height, one.width, one.num_samples) == (6, 8, 32) and one.decoding is None
    assert one.preprocessing.median_ms == pytest.approx(48 * 50 / 1e6, rel=1e-6)
    assert one.network.median_ms == pytest.approx(0.0413, rel=1e-6)
    assert one.postprocessing.median_ms == pytest.approx(48 * 11 / 1e6, rel=1e-6)
    assert one.whole_ms == pytest.approx((48 * 61 + 41_300) / 1e6, rel=1e-6)
    assert one.network.low_ms is None  # equal samples say nothing about their error
    assert [len(series.ms) for series in saved] == [32] * 3


def test_a_slow_model_ends_at_the_time_limit_of_each_frame(world: World, tmp_path: Path) -> None:
    session = TimedSession(fake_artifact(tmp_path))
    frames = [synthetic_frame(*size) for size in SIZES]
    per_round_s = (2 * 41_300 + (48 + 192) * 61) / 1e9
    taken = sample_parts(
        session, frames, range(1000), clock=world, timeout_s=2.5 * per_round_s / len(frames)
    )
    assert [len(one.ms["network"]) for one in taken] == [3, 3]


def test_post_processing_gives_what_the_way_of_a_user_gives(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    session = FakeSession(fake_artifact(tmp_path))
    logits = np.random.default_rng(0).normal(size=(1, COUNT, 4, 6)).astype(np.float32)
    given = session.outputs()._replace(masks=logits)
    found = found_in(session, given, (30, 50), threads=1)
    # boxes of the double end below the image, and are cut
    np.testing.assert_array_equal(found.boxes_xyxy, [[0, 0, 25, 30]] * COUNT)
    assert found.scores.tolist() == [0.5] * COUNT and found.labels.tolist() == [0] * COUNT
    torch = pytest.importorskip("torch", reason="PyTorch enlarges the maps as the reference")
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits), size=(30, 50), mode="bilinear", align_corners=False
    )
    for counts, mask in zip(found.masks or [], (large[0] > 0).numpy(), strict=True):
        assert counts["size"] == [30, 50]
        np.testing.assert_array_equal(coco.decode(counts), mask)


def test_post_processing_takes_the_border_of_a_letterbox_off(tmp_path: Path) -> None:
    session = FakeSession(fake_artifact(tmp_path))
    session.manifest = replace(session.manifest, resize=LETTERBOX)
    # 16 x 16 px become 8 x 8 in an input of 8 x 16, with 4 px of grey left and right; the double's
    # box is 8 px wide and 12 px high in the input
    found = found_in(session, session.outputs(), (16, 16), threads=1)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 8, 16]] * COUNT)


def test_frames_are_the_same_everywhere_and_their_jpegs_are_of_their_size() -> None:
    one = synthetic_frame(31, 77, encoded=True)
    assert one.pixels.shape == (31, 77, 3) and one.pixels.dtype == np.uint8
    assert one.pixels.std() > 20  # not one grey
    np.testing.assert_array_equal(one.pixels, synthetic_frame(31, 77).pixels)
    assert one.encoded is not None and module.decode(one.encoded).shape == (31, 77, 3)
    assert synthetic_frame(1, 1).size_hw == (1, 1)


def test_a_frame_shows_the_picture_of_the_data_and_its_jpeg_does_not() -> None:
    picture = np.full((9, 5, 3), (200, 100, 0), np.uint8)
    made = frame_of(picture, 20, 30, encoded=True)
    assert made.pixels.shape == (20, 30, 3) and (made.pixels == (200, 100, 0)).all()
    assert made.encoded == synthetic_frame(20, 30, encoded=True).encoded
    np.testing.assert_array_equal(frame_of(None, 20, 30).pixels, synthetic_frame(20, 30).pixels)


def test_a_row_with_data_is_timed_on_its_first_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = read_split(write_folder(tmp_path / "data", random_document(0), "val"), "val")
    seen: list[np.ndarray] = []
    real = module.network_input
    monkeypatch.setattr(
        module,
        "network_input",
        lambda pictures, *rest: seen.extend(pictures) or real(pictures, *rest),
    )
    given = replace(row(tmp_path), splits=(split,))
    first = split.load_image(0)
    context = Context(parts=Wanted((first.shape[:2],)))
    outcome = confirm_all({"m": given}, [PROTOCOL], Store(tmp_path / "s.jsonl"), context=context)
    assert outcome.records["m"][0].latency.parts and len(seen) == WARM_UP + 32
    np.testing.assert_array_equal(seen[0], first)


# -- Records ---------------------------------------------------------------------------------------


def test_a_new_row_gets_its_parts_beside_its_latency(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.jsonl")
    context = Context(parts=Wanted(SIZES, decoding=True))
    sustained = replace(PROTOCOL, mode="sustained")
    outcome = confirm_all({"m": row(tmp_path)}, [PROTOCOL, sustained], store, context=context)
    assert not outcome.failures
    for record in store.read():
        assert [one.size_hw for one in record.latency.parts] == [*SIZES]
        for one in record.latency.parts:
            assert one.decoding is not None and one.jpeg_bytes and one.measured_at
            for part in (one.preprocessing, one.network, one.postprocessing, one.decoding):
                assert len(load_samples(tmp_path, part.samples_sha256).ms) == 32
    assert outcome.records["m"] == store.read() and len(store.read()) == 2
    words = [line.word for line in recompute(store.path)]
    assert words == ["equal"] * (2 + 2 * 2 * 4)


def test_a_stored_row_gets_parts_and_keeps_its_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.jsonl")
    (before,) = confirm_all({"m": row(tmp_path)}, [PROTOCOL], store).records["m"]
    assert before.latency.parts is None
    refused = lambda *_, **__: pytest.fail("the latency is measured again")  # noqa: E731
    monkeypatch.setattr(confirming, "measure_interleaved", refused)
    first = Context(parts=Wanted((SIZES[1],)))
    (after,) = confirm_all({"m": row(tmp_path)}, [PROTOCOL], store, context=first).records["m"]
    assert after.id == before.id and medians(after) == [(12, 16, None)]
    assert replace(after, latency=replace(after.latency, parts=None)) == before
    # a further size is measured alone, and the parts are ordered by size
    both = Context(parts=Wanted(SIZES))
    (more,) = confirm_all({"m": row(tmp_path)}, [PROTOCOL], store, context=both).records["m"]
    assert medians(more) == [(6, 8, None), (12, 16, None)]
    assert more.latency.parts[1] == after.latency.parts[0]
    assert store.read() == [more]


def test_parts_that_the_store_holds_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.jsonl")
    context = Context(parts=Wanted(SIZES))
    confirm_all({"m": row(tmp_path)}, [PROTOCOL], store, context=context)
    content = store.path.read_bytes()
    asked: list[Wanted] = []
    measure = cells.measure_parts
    monkeypatch.setattr(
        cells, "measure_parts", lambda s, w, *rest: asked.append(w) or measure(s, w, *rest)
    )
    confirm_all({"m": row(tmp_path)}, [PROTOCOL], store, context=context)
    confirm_all({"m": row(tmp_path)}, [PROTOCOL], store)
    assert not asked and store.path.read_bytes() == content
    # decoding was not measured of any frame
    decoding = Context(parts=Wanted((SIZES[0],), decoding=True))
    (record,) = confirm_all({"m": row(tmp_path)}, [PROTOCOL], store, context=decoding).records["m"]
    assert asked == [decoding.parts]
    assert [ms is None for _, _, ms in medians(record)] == [False, True]


def test_records_of_several_images_per_run_have_no_parts(tmp_path: Path) -> None:
    batch = replace(PROTOCOL, mode="sustained", batch=2)
    store = Store(tmp_path / "s.jsonl")
    (timed,) = confirm_all({"m": row(tmp_path)}, [PROTOCOL], store).records["m"]
    wanted = Wanted(SIZES)
    assert wanted.missing_from(timed) == SIZES
    assert wanted.missing_from(replace(timed, protocol=batch)) == ()
    assert wanted.missing_from(replace(timed, latency=None)) == ()


def test_a_file_of_several_images_per_run_says_why_it_has_no_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = fake_artifact(tmp_path)
    image = replace(artifact.manifest.inputs[0], shape=(2, 3, 8, 16))
    several = replace(artifact, manifest=replace(artifact.manifest, inputs=(image,), batch=2))

    class Pairs(FakeSession):
        def bind(self, images: np.ndarray) -> None:
            assert len(images) == 2

    rows = {"pairs": Row(several, lambda build: Pairs(several))}
    rules = replace(PROTOCOL, mode="sustained", batch=2)
    context = Context(parts=Wanted(SIZES))
    with caplog.at_level("INFO"):
        outcome = confirm_all(rows, [rules], Store(tmp_path / "s.jsonl"), context=context)
    assert not outcome.failures
    (record,) = outcome.records["pairs"]
    assert record.latency.parts is None and "takes 2 images per run" in caplog.text


def test_a_row_whose_parts_fail_keeps_its_latency(tmp_path: Path) -> None:
    class Failing(FakeSession):
        def run(self, images: np.ndarray) -> Detections:
            if len(self.log) > 3:  # after the first run, which opens the session
                raise RuntimeError("out of memory")
            return super().run(images)

    store = Store(tmp_path / "s.jsonl")
    rows = {"bad": row(tmp_path, Failing, "bad"), "good": row(tmp_path, name="good")}
    outcome = confirm_all(rows, [PROTOCOL], store, context=Context(parts=Wanted(SIZES)))
    assert list(outcome.failures) == ["bad"] and isinstance(outcome.failures["bad"], StatedFailure)
    kept, whole = store.read()
    assert kept.latency is not None and kept.latency.parts is None and whole.latency.parts


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "0x5"], "a frame of 0x5 px cannot be measured"),
        (["--parts", "10"], "'10' is not a size: write height x width in px, like 1080x1920"),
        (["--parts", "480x640,480x640"], "names a size of frames twice"),
        (["--parts", "480x640,0480x640"], "names a size of frames twice"),
        (["--parts", "20000x2"], "sides of 1 to 16384 px"),
        (["--parts", "16384x16384"], "at most 67108864 pixels"),
        (["--parts", ""], "'' is not a size"),
        (["--decode"], "give --parts 1080x1920 too"),
        (["--parts", "480x640", "--batch", "2,4"], "leave one of them out, or add 1 to --batch"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(main, ["--model", "absent.onnx", *arguments]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_frame_is_its_pixels() -> None:
    assert Frame(np.zeros((3, 5, 3), np.uint8)).size_hw == (3, 5)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are a few bytes: no runtime opens them."""
    monkeypatch.setattr(backends, "open_session", lambda artifact, *_, **__: FakeSession(artifact))
    monkeypatch.setattr(backends, "check_backend", lambda *_, **__: None)
    monkeypatch.setattr(trial, "tried", lambda artifact: artifact)


@pytest.mark.usefixtures("opened")
def test_the_command_prints_and_stores_the_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.jsonl"
    model = str(fake_artifact(tmp_path, "mine").path)
    quick = ["--samples", "32", "--buffer-ms", "0", "--builds", "1", "--backend", "onnxruntime"]
    arguments = ["--model", model, *quick, "--out", str(path)]
    assert run_main(main, arguments) == 0
    assert "From a frame to its detections" not in capsys.readouterr().out
    assert run_main(main, [*arguments, "--parts", "16x12,6x8", "--decode"]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("From a frame to its detections") :]
    assert table.index("6x8") < table.index("16x12") and "JPEG" in table
    (record,) = Store(path).read()
    assert [one.size_hw for one in record.latency.parts] == [(6, 8), (16, 12)]
    assert run_main(tables.main, ["--table", "parts", "--records", str(path)]) == 0
    assert "6x8" in capsys.readouterr().out
