"""Frames of videos and cameras, and videos written, by PyAV (the extra ``video``).

Frames are shown as players show them: rotated by the stream's own matrix, at their own times.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import atomic_path
from rfdetr_repro.spec.optional import optional_module

from .media import Medium

_CODECS = ("libx264", "mpeg4")  # the first that this build of FFmpeg can write
_CLOCK = Fraction(1, 90_000)  # time base of written videos
_LONGEST_SIDE = 16_384
_USUAL_RATE = 25  # frames per second of a file that states nothing


class Frame(NamedTuple):
    """One frame: its number from 0, its time in s from the start, pixels uint8 (H, W, 3) RGB."""

    number: int
    time_s: float
    pixels: np.ndarray


def require_av() -> Any:
    """PyAV. Raises :class:`InputError` where the package is not installed."""
    return optional_module(
        "av",
        "videos and cameras need the package av, which is not installed",
        "pip install av, or give the frames as pictures",
    )


def frames(medium: Medium) -> Generator[Frame, None, None]:
    """The frames of a video or camera, in order, decoded one at a time.

    Raises :class:`InputError` where the file cannot be decoded any further; the frames before that
    have been given by then.
    """
    with _opened(medium) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = _rate(stream)
        start: float | None = None
        with _errors_of(medium):
            for number, frame in enumerate(container.decode(stream)):
                stamp = frame.time if frame.time is not None else number / rate
                start = stamp if start is None else start
                pixels = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                yield Frame(number, stamp - start, np.ascontiguousarray(np.rot90(pixels, turns)))


class VideoFile:
    """A video that is written frame by frame; the file has its name only when it is complete or
    :meth:`close` ends it early, and can be played in both cases.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """``path``: an .mp4 file; ``rate``: frames per second, for players that need a number."""
        self.path = path
        self.rate = rate
        self._open_file = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._hw = (0, 0)

    def add(self, frame: Frame) -> None:
        """Writes one frame at its time. Frames of another size than the first are fitted to the
        first frame's size: the last row and column are repeated, or what lies beyond is cut off.
        """
        av = require_av()
        if self._container is None:
            self._open(av, frame.pixels.shape[:2])
        canvas = np.zeros((*self._hw, 3), dtype=np.uint8)
        height, width = (min(a, b) for a, b in zip(self._hw, frame.pixels.shape, strict=False))
        canvas[:height, :width] = frame.pixels[:height, :width]
        if self._hw[0] > height:
            canvas[height:] = canvas[height - 1]
        if self._hw[1] > width:
            canvas[:, width:] = canvas[:, width - 1 : width]
        image = av.VideoFrame.from_ndarray(canvas, format="rgb24")
        self._last = max(self._last + 1, round(frame.time_s / _CLOCK))
        image.pts, image.time_base = self._last, _CLOCK
        self._container.mux(self._stream.encode(image))

    def _open(self, av: Any, hw: tuple[int, int]) -> None:
        if max(hw) > _LONGEST_SIDE:
            raise InputError(f"frames of {hw[0]}x{hw[1]} pixels are too large for a video")
        self._hw = (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2)  # the pixel format needs even sides
        with ExitStack() as opening:  # which leaves no file behind where the video cannot be opened
            unfinished = opening.enter_context(atomic_path(self.path))
            container = opening.enter_context(av.open(str(unfinished), "w", format="mp4"))
            stream = _video_stream(av, container, self.rate)
            stream.height, stream.width = self._hw
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = _CLOCK
            self._open_file = opening.pop_all()
        self._container, self._stream = container, stream

    def close(self) -> Path | None:
        """Ends the file and gives it its name; None where no frame was written."""
        if self._container is None:
            return None
        with self._open_file:  # closes the container, then gives the file its name
            self._container.mux(self._stream.encode())
        self._container = None
        return self.path


def _video_stream(av: Any, container: Any, rate: float) -> Any:
    """A new stream in the first of the codecs that can be written. Raises :class:`InputError` where
    there is none.
    """
    for codec in _CODECS:
        with suppress(av.error.FFmpegError, ValueError):
            return container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
    raise InputError("this build of PyAV cannot write MP4 video", hint="pip install av")


def rate_of(medium: Medium) -> float:
    """Frames per second as the file states them; 25 where it states nothing."""
    with _opened(medium) as container:
        return _rate(container.streams.video[0])


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or _USUAL_RATE)


@contextmanager
def _opened(medium: Medium) -> Iterator[Any]:
    av = require_av()
    options = {"format": "v4l2"} if medium.kind == "camera" else {}
    with _errors_of(medium):
        container = av.open(str(medium.path), **options)
    with container:
        if not container.streams.video:
            raise InputError(
                "the file holds no video", medium.path, "give a video or the frames as pictures"
            )
        yield container


@contextmanager
def _errors_of(medium: Medium) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # PyAV's own errors are among these
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = (
            "the camera cannot be opened" if medium.kind == "camera" else "cannot decode the video"
        )
        hint = "check the number of the camera" if medium.kind == "camera" else "replace the file"
        raise InputError(f"{what}: {reason}", medium.path, hint) from error
