"""Where the time goes between a frame and its detections: preprocessing, network, post-processing.

- *Preprocessing*: a decoded frame, uint8 (H, W, 3) RGB in memory, becomes the array that the
  session binds, by :func:`rfdetr_repro.data.network_input.network_input` and the resize rule of the
  file: resize, scaling to 0..1 and the change of layout, by one thread. The array is new each time.
- *Network*: ``bind``, ``launch`` and ``outputs`` of the session: the copies to the device and back
  are included, and so is what the graph does after the network itself (ranking, decoding of boxes,
  suppression of a file of another project).
- *Post-processing*: the MOST best detections, whatever their score, become boxes in pixels of the
  frame, labels and scores as arrays, and masks as COCO run lengths of the frame's size, by the
  number of threads of the row.
- *Decoding*, on request: a JPEG in memory becomes the frame.

Reading from disk or from a camera, drawing, tracking and the waits of a protocol are in no part.
With data, every frame is the first picture of the first split, enlarged or reduced; without data,
it is synthetic. Neither preprocessing nor network depends on the content. The time of masks depends
on the length of their outlines, which random weights and synthetic frames make long. The JPEG is
always synthetic; its size, on which the time of decoding depends, is stated in the Record.

One frame at a time goes the whole way, as in use: every part is timed in every round, frame sizes
take turns in a new random order per round, and there is no wait between rounds.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rfdetr_repro.data.decoding import decode
from rfdetr_repro.data.mask_logits import rles
from rfdetr_repro.data.network_input import network_input
from rfdetr_repro.evaluation.coco import boxes_in_pixels
from rfdetr_repro.records.record import FrameTimes, PartTime, Record
from rfdetr_repro.records.samples import Series, as_stored
from rfdetr_repro.records.statistics import median_of
from rfdetr_repro.runtime.predictors import of_picture
from rfdetr_repro.runtime.session import Detections, Session
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.protocol import Protocol

from .accuracy import Array
from .scopes import MOST
from .timers import Clock, Timer, WallClock, WallTimer

WARM_UP = 3  # rounds before timing
JPEG_QUALITY = 90
_OCTAVES = 8  # sizes of detail in a synthetic frame, each twice as fine as the one before
_GRAIN = 4.0  # standard deviation of the noise of single pixels, of 255


class Wanted(NamedTuple):
    """Which parts are measured: those of frames of these sizes, (height, width) in px; and whether
    decoding is one of them.
    """

    sizes_hw: tuple[tuple[int, int], ...]
    decoding: bool = False

    def missing_from(self, record: Record) -> tuple[tuple[int, int], ...]:
        """The sizes whose parts the Record lacks; none of a Record without a latency of one image
        per run, which cannot have parts.
        """
        latency = record.latency
        if latency is None or record.protocol is None or record.protocol.batch != 1:
            return ()
        held = {
            one.size_hw
            for one in latency.parts or ()
            if one.decoding is not None or not self.decoding
        }
        return tuple(size for size in self.sizes_hw if size not in held)


class Frame(NamedTuple):
    """``pixels`` uint8 (H, W, 3) RGB; ``encoded``: the bytes of a JPEG of the same size, where
    decoding is measured.
    """

    pixels: Array
    encoded: bytes | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.pixels.shape[0], self.pixels.shape[1]


class Found(NamedTuple):
    """Up to MOST detections in a frame, as post-processing leaves them."""

    boxes_xyxy: Array  # float32 (k, 4) px, inside the frame
    labels: Array  # int64 (k,)
    scores: Array  # float32 (k,) in 0..1
    masks: list[dict[str, Any]] | None  # COCO's compressed run lengths of the frame's size


class FrameSamples(NamedTuple):
    """Samples of one frame in ms, in the order in which they were taken: part -> float64 (n,)."""

    frame: Frame
    ms: dict[str, Array]


def synthetic_frame(height: int, width: int, *, encoded: bool = False) -> Frame:
    """A frame of ``height`` x ``width`` px of seeded colours with detail of every size and grain,
    and with ``encoded`` the same as a JPEG of quality JPEG_QUALITY.
    """
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for octave in range(_OCTAVES):
        rows, columns = (max(1, min(side, 4 << octave)) for side in (height, width))
        coarse = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, dtype=np.float32) - 127.5) * 0.5 ** (octave + 1)
    total += rng.normal(127.5, _GRAIN, (height, width, 1)).astype(np.float32)
    pixels = total.clip(0, 255).astype(np.uint8)
    if not encoded:
        return Frame(pixels)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=JPEG_QUALITY)
    return Frame(pixels, content.getvalue())


def frame_of(picture: Array | None, height: int, width: int, *, encoded: bool = False) -> Frame:
    """:func:`synthetic_frame`, with the pixels of ``picture``, uint8 (H, W, 3) RGB, resized to
    ``height`` x ``width`` px, where there is one.
    """
    made = synthetic_frame(height, width, encoded=encoded)
    if picture is None:
        return made
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return made._replace(pixels=np.asarray(resized))


def found_in(session: Session, found: Detections, size_hw: tuple[int, int], threads: int) -> Found:
    """The outputs for one image as detections in pixels of a frame of ``size_hw``: what the part
    post-processing times.
    """
    kept = of_picture(session, found, size_hw)
    boxes = boxes_in_pixels(kept.boxes_xyxy[0, :MOST], size_hw)
    masks = None
    if kept.masks is not None:
        masks = rles(kept.masks[0, :MOST], *size_hw, threads=threads)
    return Found(boxes, kept.labels[0, :MOST], kept.scores[0, :MOST], masks)


class Way:
    """The way of one frame through a session; each method is one part and needs the one before."""

    def __init__(self, session: Session, frame: Frame, threads: int) -> None:
        """Nothing is computed yet; ``threads``: of the run lengths of masks."""
        self.session = session
        self.frame = frame
        self.threads = threads
        self.inputs: Array | None = None
        self.outputs: Detections | None = None
        self.found: Found | None = None

    @property
    def parts(self) -> dict[str, Callable[[], None]]:
        """Part -> its work, in order."""
        first = {} if self.frame.encoded is None else {"decoding": self.decode}
        return {
            **first,
            "preprocessing": self.preprocess,
            "network": self.run,
            "postprocessing": self.postprocess,
        }

    def decode(self) -> None:
        """Decodes the JPEG; the parts that follow take the frame that was there before, so that
        their times do not depend on whether decoding is measured.
        """
        decode(self.frame.encoded)

    def preprocess(self) -> None:
        """From the frame to the array that the session binds."""
        manifest = self.session.manifest
        self.inputs = network_input([self.frame.pixels], manifest.input_hw, manifest.resize)

    def run(self) -> None:
        """From that array to outputs in host memory."""
        assert self.inputs is not None
        self.outputs = self.session.run(self.inputs)

    def postprocess(self) -> None:
        """From outputs to detections in pixels."""
        assert self.outputs is not None
        self.found = found_in(self.session, self.outputs, self.frame.size_hw, self.threads)


def sample_parts(
    session: Session,
    frames: Sequence[Frame],
    rounds: Iterable[int],
    *,
    threads: int = 1,
    clock: Clock | None = None,
    timeout_s: float = Protocol.timeout_s,
) -> list[FrameSamples]:
    """Times every part of the way of every frame once per round, after WARM_UP rounds without
    timing.

    ``rounds``: as many rounds as it yields, fewer if ``timeout_s`` seconds per frame are over; at
    least one.
    """
    clock = clock or WallClock()
    timer: Timer = WallTimer(clock)
    ways = [Way(session, frame, threads) for frame in frames]
    for _ in range(WARM_UP):
        for way in ways:
            for part in way.parts.values():
                part()
    samples: list[dict[str, list[float]]] = [{name: [] for name in way.parts} for way in ways]
    order = list(range(len(ways)))
    rng = random.Random(0)
    start = clock.now_ns()
    for _ in rounds:
        rng.shuffle(order)
        for index in order:
            for name, part in ways[index].parts.items():
                samples[index][name].append(timer.time_ms(part))
        if (clock.now_ns() - start) / 1e9 >= timeout_s * len(ways):
            break
    return [
        FrameSamples(frame, {name: as_stored(np.asarray(ms)) for name, ms in taken.items()})
        for frame, taken in zip(frames, samples, strict=True)
    ]


def measure_parts(
    session: Session,
    wanted: Wanted,
    protocol: Protocol,
    save: Callable[[Series], str],
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    picture: Array | None = None,
    clock: Clock | None = None,
) -> tuple[FrameTimes, ...]:
    """The times of the parts of every wanted frame, in the order of the sizes; every frame shows
    ``picture``, uint8 (H, W, 3) RGB, or is synthetic.

    As many samples of each part are taken as ``protocol`` takes at least; ``save`` stores a series
    of raw samples and returns the hash that names them.
    """
    frames = [frame_of(picture, *size, encoded=wanted.decoding) for size in wanted.sizes_hw]
    rounds = progress(range(protocol.min_samples))
    taken = sample_parts(
        session,
        frames,
        rounds,
        threads=protocol.threads,
        clock=clock,
        timeout_s=protocol.timeout_s,
    )
    now = utc_now()
    return tuple(_times(one, save, now) for one in taken)


def _times(taken: FrameSamples, save: Callable[[Series], str], now: str) -> FrameTimes:
    parts = {name: _part(Series.of(ms), save) for name, ms in taken.ms.items()}
    height, width = taken.frame.size_hw
    encoded = taken.frame.encoded
    return FrameTimes(
        height,
        width,
        **parts,
        num_samples=len(taken.ms["network"]),
        jpeg_bytes=None if encoded is None else len(encoded),
        measured_at=now,
    )


def _part(series: Series, save: Callable[[Series], str]) -> PartTime:
    found = median_of(series)
    low, high = found.interval or (None, None)
    return PartTime(found.ms, low, high, save(series))


def with_parts(record: Record, found: Sequence[FrameTimes]) -> Record:
    """The Record with its own latency and, beside the parts that it has, those in ``found``, by
    the number of pixels; of two frames of one size, that in ``found``. Raises :class:`InputError`
    for a Record without a latency.
    """
    latency = record.as_latency().latency
    by_size = {one.size_hw: one for one in (*(latency.parts or ()), *found)}
    parts = sorted(by_size.values(), key=lambda one: (one.height * one.width, one.size_hw))
    return replace(record, latency=replace(latency, parts=tuple(parts)))
