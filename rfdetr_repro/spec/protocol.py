"""How latency is measured: stored with every result, and hashed into what a Record's request is.

No torch here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .errors import InputError
from .ranges import check_ranges, choose

BACKENDS = (
    "onnxruntime",
    "onnxruntime-cuda",
    "openvino",
    "torch",
    "torch-graph",
    "tensorrt",
    "tensorrt-rtx",
)
# can replay a CUDA graph
WITH_GRAPH = ("onnxruntime-cuda", "torch-graph", "tensorrt", "tensorrt-rtx")
# run ONNX files, or engines built from them
OF_ONNX = tuple(name for name in BACKENDS if not name.startswith("torch"))

_LONGEST_S = 1e7
WHOLE = {  # field -> lowest and highest value, both allowed
    "warmup": (0, 10**6),
    "min_samples": (1, 10**9),
    "max_samples": (1, 10**9),
    "builds": (1, 1000),
    "threads": (1, 1024),
    "batch": (1, 2**16),
}
REAL = {
    "buffer_ms": (0, 1e6),
    "relative_ci": (0, 1),
    "timeout_s": (1e-3, _LONGEST_S),
    "fps": (0, 1e6),
    "min_time_s": (0, _LONGEST_S),
    "settle_s": (0, _LONGEST_S),
    "spin_ms": (0, 1e6),
}
PAPER_WAIT_MS = 200.0
_LATER = ("fps", "min_time_s", "settle_s", "spin_ms", "flush_l2")


@dataclass(frozen=True)
class Protocol:
    """How latency is measured; stored with every result (benchmark protocol section 3).

    Scopes: "engine", from the bound input to final boxes, scores, labels and masks; "device", with
    the copies in and out; "host", from an encoded picture to Python objects in pixels.
    """

    # "buffered": wait before every sample; "sustained": closed loop; "paced": arrivals at `fps`
    mode: str = "buffered"
    scope: str = "engine"
    buffer_ms: float = PAPER_WAIT_MS  # wait before each sample when buffered
    warmup: int = 10  # runs before timing; kept apart
    min_samples: int = 64  # per build, as is the maximum
    max_samples: int = 256
    # stop when the 95 % interval of the median is narrower than this part of it
    relative_ci: float = 0.005
    timeout_s: float = 60.0
    builds: int = 1
    threads: int = 2  # intra-op threads of a CPU runtime
    batch: int = 1
    # of a GPU: "free", "locked" to its base clock, or "denied": a lock was asked for and refused
    clock_policy: str = "free"
    fps: float = 0.0  # arrivals per second when paced
    min_time_s: float = 0.0  # timed seconds of every build; if > 0 they alone end a series
    settle_s: float = 0.0  # warm up until this many seconds show no trend; 0: `warmup` runs only
    # last part of the buffered wait in which the GPU is kept busy, so that its clock stays up
    spin_ms: float = 0.0
    flush_l2: bool = False  # the GPU's L2 cache is overwritten before each sample

    def __post_init__(self) -> None:
        choose(self.mode, ("buffered", "sustained", "paced"), "protocol mode")
        choose(self.scope, ("engine", "device", "host"), "scope of a latency")
        choose(self.clock_policy, ("free", "locked", "denied"), "clock policy")
        check_ranges(self, WHOLE, REAL, "the protocol")
        if not isinstance(self.flush_l2, bool):
            raise InputError(
                f"flush_l2 = {self.flush_l2!r} is neither true nor false", "the protocol"
            )
        if self.batch != 1:
            raise InputError(
                f"batch = {self.batch}: one image at a time is timed",
                "the protocol",
                "leave batch out",
            )
        if not 1 <= self.min_samples <= self.max_samples:
            raise InputError(f"samples {self.min_samples}..{self.max_samples} are not a range")
        if (self.mode == "paced") != (self.fps > 0) or self.builds < 1:
            raise InputError(
                f"mode {self.mode} at {self.fps:g} frames per second with {self.builds} builds "
                f"cannot be measured"
            )
        if not 0 <= self.min_time_s <= self.timeout_s:
            raise InputError(
                f"{self.min_time_s:g} s of samples do not fit into a limit of {self.timeout_s:g} s"
            )
        if not 0 <= self.spin_ms <= (self.buffer_ms if self.mode == "buffered" else 0):
            raise InputError(
                f"{self.spin_ms:g} ms of spinning do not fit into the wait before a sample",
                hint="buffered only",
            )
        if self.flush_l2 and self.mode == "paced":
            raise InputError(
                "frames that arrive at a fixed rate leave no time to flush the cache",
                hint="leave --flush-l2 out",
            )

    @property
    def rhythm(self) -> str:
        """When a sample begins and what the GPU did before it, e.g.

        "buffered 200 ms", "paced 30 fps", "sustained, cold L2".
        """
        pace = {"buffered": f" {self.buffer_ms:g} ms", "paced": f" {self.fps:g} fps"}.get(
            self.mode, ""
        )
        spin = f", spin {self.spin_ms:g} ms" if self.spin_ms else ""
        return self.mode + pace + spin + (", cold L2" if self.flush_l2 else "")

    @property
    def short(self) -> str:
        """:attr:`rhythm` without the wait where that is the paper's 200 ms."""
        return self.rhythm.replace(f"buffered {PAPER_WAIT_MS:g} ms", "buffered")

    @property
    def usual(self) -> bool:
        """Buffered or sustained, and the GPU left alone between samples."""
        return self.mode != "paced" and not self.spin_ms and not self.flush_l2

    def only_waits(self, buffer_ms: float | None) -> bool:
        """Whether samples are taken as the paper's are, after this wait."""
        return self.mode == "buffered" and self.buffer_ms == buffer_ms and self.usual

    def settings(self) -> dict[str, Any]:
        """Field -> value, later fields only where they are set: what is hashed, so that older
        Records keep their ids.
        """
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value}


MODES = ("buffered", "sustained")  # of the protocols that a campaign measures
# what is decided by unless a campaign says otherwise: buffered, as the paper's columns are
DECISION = Protocol(threads=1)
