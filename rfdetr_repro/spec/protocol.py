"""How latency is measured. The settings are stored with every result and are part of the hash of a
Record's request. No torch here.
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
# run files of the format torch: eager, and as one CUDA graph
IN_TORCH = ("torch", "torch-graph")
OF_ENGINES = ("tensorrt", "tensorrt-rtx")  # run engines that are built from ONNX files

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
PRECISIONS = ("fp32", "fp16")  # that engines are built in, and ONNX files of a search
FILE_PRECISIONS = (*PRECISIONS, "int8")  # that files are exported in
# that files are measured in: in bf16, and in fp16 in PyTorch, a runtime computes a float32 file
MEASURED_PRECISIONS = (*FILE_PRECISIONS, "bf16")
DEPLOYED_PRECISIONS = (*PRECISIONS, "bf16")  # that searches measure, bf16 in PyTorch alone
# precision -> largest loss of AP against float32, in points, unless a command sets another
AP_GATES = {"fp16": 0.3, "int8": 0.5, "bf16": 0.3}
CALIBRATION_IMAGES = 64  # training images from which the ranges of INT8 are taken
MODES = ("buffered", "sustained")  # modes that a campaign measures
QUANTILES = ("median", "p90", "p95", "p99")  # statistics of a latency that can have a ceiling
PAPER_WAIT_MS = 200.0
_LATER = ("fps", "min_time_s", "settle_s", "spin_ms", "flush_l2", "quick")


@dataclass(frozen=True)
class Protocol:
    """How latency is measured; stored with every result (benchmark protocol section 3).

    Scopes: "engine" runs from the bound input to final boxes, scores, labels and masks; "device"
    adds the copies to and from the device; "host" runs from an encoded picture to Python objects in
    pixels.
    """

    # "buffered": a wait before every sample; "sustained": a closed loop; "paced": frames arrive at
    # `fps`
    mode: str = "buffered"
    scope: str = "engine"
    buffer_ms: float = PAPER_WAIT_MS  # wait before each sample when buffered
    warmup: int = 10  # runs before timing, which are not part of the samples
    min_samples: int = 64  # per build, like `max_samples`
    max_samples: int = 256
    # stop when the 95 % interval of the median is narrower than this part of it
    relative_ci: float = 0.005
    timeout_s: float = 60.0
    builds: int = 1
    threads: int = 2  # intra-op threads of a CPU runtime
    batch: int = 1  # images of one run; a latency is that of all of them
    # of a GPU: "free", "locked" (to its base clock) or "denied" (a lock was requested and refused)
    clock_policy: str = "free"
    fps: float = 0.0  # arrivals per second when paced
    # timed seconds of every build; a value above 0 alone decides when a series ends
    min_time_s: float = 0.0
    settle_s: float = 0.0  # warm up until this many seconds show no trend; 0: `warmup` runs only
    # last part of the buffered wait in which the GPU is kept busy, so that its clock stays up
    spin_ms: float = 0.0
    flush_l2: bool = False  # overwrite the GPU's L2 cache before each sample
    # fewer samples than the protocol takes, for a first look; never compared with full measurements
    quick: bool = False

    def __post_init__(self) -> None:
        choose(self.mode, (*MODES, "paced"), "protocol mode")
        choose(self.scope, ("engine", "device", "host"), "scope of a latency")
        choose(self.clock_policy, ("free", "locked", "denied"), "clock policy")
        check_ranges(self, WHOLE, REAL, "the protocol")
        for name in ("flush_l2", "quick"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"{name} = {value!r} is neither true nor false", "the protocol")
        if self.batch != 1 and self.mode == "paced":
            raise InputError(
                f"batch = {self.batch}, but frames of the paced mode arrive one at a time",
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
                hint="spin in buffered mode only",
            )
        if self.flush_l2 and self.mode == "paced":
            raise InputError(
                "frames that arrive at a fixed rate leave no time to flush the cache",
                hint="leave --flush-l2 out",
            )

    @property
    def rhythm(self) -> str:
        """When a sample begins, what the GPU did before it and what a sample is, like "buffered 200
        ms", "paced 30 fps", "sustained, cold L2" or "sustained, batch 8".
        """
        pace = {"buffered": f" {self.buffer_ms:g} ms", "paced": f" {self.fps:g} fps"}.get(
            self.mode, ""
        )
        spin = f", spin {self.spin_ms:g} ms" if self.spin_ms else ""
        batch = f", batch {self.batch}" if self.batch != 1 else ""
        cold = ", cold L2" if self.flush_l2 else ""
        return self.mode + pace + spin + cold + batch + (", quick" if self.quick else "")

    @property
    def short(self) -> str:
        """:attr:`rhythm`, without the wait where the wait is the paper's 200 ms."""
        return self.rhythm.replace(f"buffered {PAPER_WAIT_MS:g} ms", "buffered")

    @property
    def usual(self) -> bool:
        """Whether the mode is buffered or sustained, one image is timed at a time by the whole
        protocol, and the GPU is left alone between samples.
        """
        whole = self.batch == 1 and not self.quick
        return whole and self.mode != "paced" and not self.spin_ms and not self.flush_l2

    def only_waits(self, buffer_ms: float | None) -> bool:
        """Whether samples are taken like the paper's, after a wait of ``buffer_ms``."""
        return self.mode == "buffered" and self.buffer_ms == buffer_ms and self.usual

    def settings(self) -> dict[str, Any]:
        """Field -> value. Fields that were added later appear only where they are set. This is what
        ids hash, so older Records keep their ids.
        """
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value}


def check_deployment(backend: str, precision: str, cuda_graph: bool, where: object = "") -> None:
    """Raises :class:`InputError`, which names ``where``, unless a search can measure its models on
    ``backend`` in ``precision``, and replay a CUDA graph if ``cuda_graph`` is set.
    """
    choose(backend, BACKENDS, "backend", where)
    choose(precision, DEPLOYED_PRECISIONS, "precision", where)
    if precision not in PRECISIONS and backend not in IN_TORCH:
        raise InputError(
            f"a search on {backend} in {precision} is not possible",
            where,
            f"choose {' or '.join(IN_TORCH)}, or a precision of {', '.join(PRECISIONS)}",
        )
    if cuda_graph and backend not in WITH_GRAPH:
        raise InputError(
            f"the backend {backend} cannot replay a CUDA graph",
            where,
            f"choose one of {', '.join(WITH_GRAPH)}, or leave the CUDA graph out",
        )


def runtimes_of(backend: str) -> tuple[str, ...]:
    """What Records call the runtime of ``backend``: PyTorch's names state the device too."""
    in_torch = {
        "torch": ("torch-cpu-eager", "torch-cuda-eager"),
        "torch-graph": ("torch-cuda-graph",),
    }
    return in_torch.get(backend, (backend, f"{backend}-cpu"))


# decides unless a campaign sets another protocol: buffered, as in the paper's columns
DECISION = Protocol(threads=1)
