"""The arguments of the benchmark command that ask for the parts of a latency, and their output."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import parse_shape
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables.format import render
from rfdetr_repro.tables.parts import parts_tables

# of one frame; prediction reduces a larger picture while it decodes it, which is another way
MOST_PIXELS = 1 << 26
MOST_SIDE = 1 << 14


def frame_sizes(text: str) -> list[tuple[int, int]]:
    """The type of --parts: different sizes of frames, height x width in px."""
    sizes = []
    for part in text.split(","):
        try:
            height, width = parse_shape(part)
        except InputError as error:
            message = f"{part.strip()!r} is not a size: write height x width in px, like 1080x1920"
            raise argparse.ArgumentTypeError(message) from error
        fits = 1 <= min(height, width) and max(height, width) <= MOST_SIDE
        if not fits or height * width > MOST_PIXELS:
            raise argparse.ArgumentTypeError(
                f"a frame of {part.strip()} px cannot be measured: write sides of 1 to "
                f"{MOST_SIDE} px and at most {MOST_PIXELS} pixels"
            )
        sizes.append((height, width))
    if len(set(sizes)) < len(sizes):
        raise argparse.ArgumentTypeError(f"{text!r} names a size of frames twice")
    return sizes


def add_parts(group: argparse._ArgumentGroup) -> None:
    """Adds the arguments."""
    group.add_argument(
        "--parts",
        type=frame_sizes,
        metavar="HxW,...",
        help="also time preprocessing, network and post-processing one by one, for video frames or "
        "pictures of these heights x widths in px, such as 480x640,1080x1920,2160x3840; one frame "
        "per run, in a closed loop; stored with the row's latency, which is not measured again "
        "where the store holds it",
    )
    group.add_argument(
        "--decode",
        action="store_true",
        help="with --parts: also time the decoding of each frame from a JPEG in memory",
    )


def check_parts(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for --parts and other arguments that contradict each other."""
    if args.decode and args.parts is None:
        raise InputError(
            "--decode times the decoding of frames, and no sizes of frames are given",
            hint="give --parts 1080x1920 too",
        )
    if args.parts is not None and 1 not in args.batch:
        raise InputError(
            "--parts times one frame per run, and --batch asks for other numbers only",
            hint="leave one of them out, or add 1 to --batch",
        )


def parts_lines(records: Iterable[Record], width: int | None) -> list[str]:
    """The table of the parts of the latency; empty where no Record has parts."""
    tables = parts_tables(list(records))
    return render(tables, "text", width).splitlines() if tables else []
