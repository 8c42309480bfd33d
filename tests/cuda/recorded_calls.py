"""Program: calls every CUDA operator and launcher on the runtime of fake_runtime.cpp and prints
what was asked of that runtime, as JSON. Arguments: the library of operators, the runtime, the
compute capability (90), the bytes of shared memory and the number of multiprocessors of a device.

A process of its own, because a launcher may keep what it knows about a device.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

DEVICE = 3  # of all tensors, says the runtime
ASKED = 700  # an error that no rule of the runtime gives
MAPS = {"small": [(6, 7)], "large": [(44, 44)], "levels": [(20, 20), (10, 10), (5, 5)]}
# Maps for which the kernel of a path needs more than 48 KiB of shared memory and no more than any
# device has.
PATH_MAPS = {"staged": [(28, 28)], "sorted": [(78, 78)]}
Call = Callable[[Any], object]


def attention(
    dtype: torch.dtype, levels: list[tuple[int, int]], channels: int, fused: bool
) -> list[torch.Tensor]:
    """Value, points, boxes if fused, and weights of the operators; the values mean nothing."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    pixels = sum(height * width for height, width in levels)
    points = 2 if len(levels) == 1 else 4
    shape = (2, 130, 8, len(levels), points)
    boxes = [torch.rand(2, 130, 4, dtype=wide)] if fused else []
    return [
        torch.rand(2, pixels, 8, channels).to(dtype),
        torch.rand(*shape, 2, dtype=wide),
        *boxes,
        torch.rand(*shape, dtype=wide),
    ]


def attention_call(
    dtype: torch.dtype, levels: list[tuple[int, int]], channels: int, fused: bool, backward: str
) -> Call:
    """One operator of the attention on tensors of these types and sizes."""
    tensors = attention(dtype, levels, channels, fused)
    sizes = [side for level in levels for side in level]
    name = "ms_deform_attn" + ("_fused" if fused else "") + ("_backward" if backward else "")

    def call(operators: Any) -> object:
        if not backward:
            return getattr(operators, name)(tensors[0], sizes, *tensors[1:])
        upstream = torch.rand(2, 130, 8 * channels).to(dtype)
        first = (upstream, tensors[0], sizes)
        return getattr(operators, name)(*first, *tensors[1:], backward == "deterministic")

    return call


def path_call(path: str, dtype: torch.dtype, fused: bool) -> Call:
    """The operator of which ``path`` is a kernel, taking that path."""
    backward = "usual" if path == "sorted" else ""
    work = attention_call(dtype, PATH_MAPS[path], 16, fused, backward)

    def call(operators: Any) -> object:
        os.environ["RFDETR_CUDA_PATH"] = path
        try:
            return work(operators)
        finally:
            del os.environ["RFDETR_CUDA_PATH"]

    return call


def masks_call(width: int, packed: bool, boxed: bool) -> Call:
    """masks_from_logits of five masks."""
    logits = torch.rand(5, 9, 9)
    boxes = torch.rand(5, 4) if boxed else None
    return lambda operators: operators.masks_from_logits(logits, 40, width, boxes, packed)


def calls() -> dict[str, Call]:
    """Every operator, type and path."""
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    found: dict[str, Call] = {}
    kinds = itertools.product(types, MAPS, (16, 5), (False, True), ("", "usual", "deterministic"))
    for dtype, maps, channels, fused, backward in kinds:
        part = "backward " + backward if backward else "forward"
        form = "fused" if fused else "plain"
        name = f"{part} {form} {str(dtype)[6:]} {maps} {channels}"
        found[name] = attention_call(dtype, MAPS[maps], channels, fused, backward)
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    for path, dtype, fused in itertools.product(PATH_MAPS, narrow, (False, True)):
        name = f"{path} {'fused' if fused else 'plain'} {str(dtype)[6:]}"
        found[name] = path_call(path, dtype, fused)
    for width, packed, boxed in itertools.product((64, 61, 11), (False, True), (False, True)):
        name = f"masks {width} {'packed' if packed else 'bool'} {'boxed' if boxed else 'whole'}"
        found[name] = masks_call(width, packed, boxed)
    return found


class Runtime:
    """The recording runtime of this process."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.fake_events.restype = ctypes.c_char_p
        self.library.fake_stream.restype = ctypes.c_size_t

    def recorded(self, call: Callable[[], object], fails: tuple[str, int] | None) -> dict[str, Any]:
        """What a call asked for, and its error; ``fails``: the call of the runtime that fails, and
        after how many.
        """
        self.library.fake_reset()
        if fails:
            self.library.fake_fail(fails[0].encode(), fails[1], ASKED)
        error = ""
        try:
            call()
        except RuntimeError as raised:
            error = str(raised)
        return {"events": self.library.fake_events().decode().splitlines(), "error": error}


# ---- sizes that no memory holds: a launch that is only recorded reads nothing


class Level(ctypes.Structure):
    _fields_ = [("height", ctypes.c_int), ("width", ctypes.c_int), ("start", ctypes.c_int)]


class Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "pixels", "heads", "channels", "queries")),
        *((name, ctypes.c_int) for name in ("num_levels", "points")),
        ("levels", Level * 8),
        ("storage", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("value", "given_points", "weights", "boxes")),
    ]


class Gradients(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("upstream", "value", "points", "weights", "boxes")
    ]


class Masks(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("logits", "boxes")),
        *((name, ctypes.c_int64) for name in ("count", "height", "width")),
        *((name, ctypes.c_int64) for name in ("out_height", "out_width")),
        ("packed", ctypes.c_int),
        ("out", ctypes.c_void_p),
    ]


SIZES = {  # batch, queries, heads, channels, side of the map
    "usual": (16, 3900, 16, 16, 24),
    "2^31 values": (16, 300, 256, 32, 128),
    "2^31 outputs": (2**16, 300, 16, 16, 4),
    "2^40 outputs": (2**20, 2**12, 16, 16, 4),
    "2^52 outputs": (2**24, 2**20, 16, 16, 4),
    "2^35 maps": (2**28, 64, 128, 16, 4),
}
MASK_SIZES = {  # count, side of the map, height, width
    "usual": (100, 108, 1080, 1920),
    "2^30 pixels": (518, 108, 1080, 1920),
    "2^31 pixels": (1100, 108, 1080, 1919),
    "2^41 pixels": (2**10, 108, 2**15, 2**16 - 1),
    "2^52 pixels": (2**22, 4, 2**15, 2**15),
}


def launched_sizes(library: ctypes.CDLL, runtime: Runtime) -> dict[str, dict[str, Any]]:
    """Launchers on sizes around every limit, with addresses that are never read."""
    address = 1 << 20
    found = {}
    for name, (batch, queries, heads, channels, side) in SIZES.items():
        levels = (Level * 8)(Level(side, side, 0))
        sizes = (batch, side * side, heads, channels, queries, 1, 2, levels)
        call = Attention(*sizes, 0, address, address, address, address)
        to = Gradients(*[address] * 5)
        for part, work in (
            (
                "forward",
                lambda call=call: library.rfdetr_forward_launch(
                    ctypes.byref(call), ctypes.c_void_p(address), None
                ),
            ),
            (
                "backward",
                lambda call=call, to=to: library.rfdetr_backward_launch(
                    ctypes.byref(call), ctypes.byref(to), 0, None
                ),
            ),
            (
                "deterministic",
                lambda call=call, to=to: library.rfdetr_backward_launch(
                    ctypes.byref(call), ctypes.byref(to), 1, None
                ),
            ),
        ):
            found[f"{part} {name}"] = with_code(runtime, work)
    for name, (count, side, height, width) in MASK_SIZES.items():
        for packed in (0, 1):
            masks = Masks(address, None, count, side, side, height, width, packed, address)
            found[f"masks {name} {packed}"] = with_code(
                runtime, lambda masks=masks: library.rfdetr_masks_launch(ctypes.byref(masks), None)
            )
    return found


def with_code(runtime: Runtime, work: Callable[[], int]) -> dict[str, Any]:
    """What a launcher asked for, and what it returned."""
    code = []
    recorded = runtime.recorded(lambda: code.append(work()), None)
    return {**recorded, "code": code[0]}


def failures(events: list[str]) -> list[tuple[str, int]]:
    """Every call of the runtime that may fail in a call that asked for these, but for
    cudaFuncSetAttribute.
    """
    calls_of = {
        "launch ": "launch",
        "memset ": "cudaMemsetAsync",
        "query device": "cudaGetDevice",
        "query attribute ": "cudaDeviceGetAttribute",
        "stream of ": "stream",
    }
    return [
        (call, index)
        for start, call in calls_of.items()
        for index in range(sum(event.startswith(start) for event in events))
    ]


def answer(runtime: Runtime, work: Callable[[], object], failing: bool) -> dict[str, Any]:
    """What a call asked for and, under "failing", what became of it when a call of the runtime
    failed: cudaFuncSetAttribute always, the others if ``failing``.
    """
    # A launcher remembers that it may use large shared memory, so this failure comes first.
    attribute = ("cudaFuncSetAttribute", 0)
    refused = runtime.recorded(work, attribute)
    usual = runtime.recorded(work, None)
    asked = any(event.startswith("attribute ") for event in refused["events"])
    outcomes = {"cudaFuncSetAttribute 0": refused} if asked else {}
    for what, index in failures(usual["events"]) if failing else ():
        outcomes[f"{what} {index}"] = runtime.recorded(work, (what, index))
    return {**usual, "failing": outcomes}


def main() -> None:
    library_path, runtime_path, *device = sys.argv[1:]
    torch.ops.load_library(library_path)
    runtime = Runtime(runtime_path)
    runtime.library.fake_capability(*map(int, device))
    library = ctypes.CDLL(library_path)
    operators = torch.ops.rfdetr_proof
    answers = {}
    for name, call in calls().items():
        failing = "float32" in name or "masks" in name
        answers[name] = answer(runtime, lambda call=call: call(operators), failing)
    json.dump(
        {
            "calls": answers,
            "sizes": launched_sizes(library, runtime),
            "stream": runtime.library.fake_stream(DEVICE),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
