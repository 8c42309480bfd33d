"""The parts of a Record: which model, data, file and machine, and the results.

Absent is ``None``, never 0 or -1. Accuracy is a fraction in 0..1, latency is in milliseconds. What
a part must hold is checked by the Record that it becomes a part of (:mod:`.record`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.metrics import plural


@dataclass(frozen=True)
class ModelId:
    """Which model ran."""

    family: str  # "rfdetr", "yolov8", ...
    name: str  # printed name
    task: str = "detect"  # "detect" or "segment"
    size: str | None = None  # N, S, M, ...
    variant: str | None = None  # e.g. "nas", "nas+fine-tuning"
    arch: Arch | None = None
    checkpoint_sha256: str | None = None
    weights: str = "trained"  # "trained", "random" (never with an accuracy), "published"
    # backbone of an RF-DETR, a name of spec.backbones; None: the DINOv2 of the size, or a model of
    # another project
    backbone: str | None = None
    # what the weights were trained in, such as "float32" or "bfloat16 backbone, TF32 decoder";
    # None: unknown
    trained_in: str | None = None


@dataclass(frozen=True)
class TrainFacts:
    """What the train split of a data set holds. Crowd regions do not count as objects."""

    images: int
    objects: int
    classes: int
    # of the boxes, as a fraction of the image: arithmetic mean over the objects
    mean_object_area: float

    @property
    def objects_per_image(self) -> float:
        """Mean over the images."""
        return self.objects / self.images


@dataclass(frozen=True)
class Budget:
    """What a training was given, where several models were given the same."""

    steps: int  # optimizer steps
    images_per_step: int

    @property
    def words(self) -> str:
        """Like "800 steps of 8 images"."""
        return f"{plural(self.steps, 'step')} of {plural(self.images_per_step, 'image')}"


@dataclass(frozen=True)
class DataId:
    """Which images the model ran on; ``sha256`` is over the annotations. ``train``: what the model
    was trained on, where the Record states it; no part of the request.
    """

    name: str
    split: str
    sha256: str | None = None
    num_images: int | None = None
    train: TrainFacts | None = None

    @property
    def synthetic(self) -> bool:
        """Whether this project composed the images, so that their AP says nothing about COCO."""
        return self.name.startswith("embedded")


@dataclass(frozen=True)
class ArtifactId:
    """Which file ran, on which runtime."""

    sha256: str  # of the file that ran (engine or ONNX)
    onnx_sha256: str
    runtime: str  # "onnxruntime-cpu", "tensorrt", ...
    precision: str  # "fp32", "fp16", "int8", or "bf16" where a runtime computes so
    size_bytes: int
    options: str = ""  # build and session options that change what runs


@dataclass(frozen=True)
class Quantised:
    """What became INT8 in a file, and what the file was calibrated on.

    Products are matrix products; products and convolutions count the nodes of the float32 graph.
    """

    products_int8: int
    products: int
    convolutions_int8: int
    convolutions: int
    flops_share: float  # of the operations of products and convolutions, 0..1, that became INT8
    calibration_sha256: str  # over identities and pixels of the calibration images
    calibration_images: int
    kernels: int | None = None  # integer nodes after the runtime's own optimisation

    @property
    def told(self) -> str:
        """What became INT8, like "47 of 47 products and 12 of 12 convolutions, 93 % of FLOPs"."""
        return (
            f"{self.products_int8} of {self.products} products and {self.convolutions_int8} of "
            f"{self.convolutions} convolutions, {100 * self.flops_share:.0f} % of FLOPs"
        )


@dataclass(frozen=True)
class Cost:
    """Size and operations of the model, for one image."""

    params: int | None = None
    flops: float | None = None  # 2 per multiply-add; what else counts depends on the counter
    macs: float | None = None  # multiply-adds
    # "flopcountermode", "calflops", "onnx", "shapes" (bench/counters.py)
    counter: str | None = None
    # what was counted: "evaluated" (the authors' evaluation forward) or "deployed"
    form: str | None = None


@dataclass(frozen=True)
class Resampled:
    """How the interval of an AP was obtained: images were drawn again, with replacement
    (:mod:`.ap_intervals`).
    """

    # "bootstrap", or "influence" where every image's weight was varied instead of drawn
    method: str
    images: int
    resamples: int | None = None
    seed: int | None = None
    freedom: float | None = None  # degrees of freedom: how many images carry the AP
    # of how often each image was drawn: two APs with the same digest are paired
    draws_sha256: str | None = None
    # AP of each resample: base64 of little-endian uint16, 65535 is 1
    aps: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics as fractions; ``None`` where the metric has no ground truth.

    ``ap_low`` and ``ap_high``: 95 % interval of ``ap`` over other images of the same kind;
    ``None``: not known.
    """

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_s: float | None = None
    ap_m: float | None = None
    ap_l: float | None = None
    max_dets: int = 100
    # the file the detections came from; None: from the checkpoint in PyTorch
    artifact_sha256: str | None = None
    # what was handed to the evaluator (AP_RULE); None: an older rule, published, or not known
    rule: str | None = None
    ap_low: float | None = None
    ap_high: float | None = None
    resampled: Resampled | None = None
    # detections that the evaluator was given; None: not counted (an older Record, the search,
    # published)
    detections: int | None = None


@dataclass(frozen=True)
class Build:
    """One of several builds of a Latency: another session, or another engine of the same ONNX
    file.
    """

    sha256: str  # of the file that ran
    median_ms: float
    num_samples: int


@dataclass(frozen=True)
class Itself:
    """A/A: the same file measured twice, interleaved like two models.

    The difference is the instrument's own error.
    """

    median_ms: float  # the second time
    difference: float  # second / first - 1
    verdict: str  # "SAME", "UNDECIDED", or falsely "FASTER" or "SLOWER"
    low: float | None = None  # 95 % interval of the difference
    high: float | None = None
    samples_sha256: str | None = None  # of the second time

    @property
    def told(self) -> str:
        """The result to print, like "+0.12 % (-0.30 % to +0.55 %), SAME"."""
        interval = (
            "no interval"
            if self.low is None or self.high is None
            else f"{self.low:+.2%} to {self.high:+.2%}"
        )
        return f"{self.difference:+.2%} ({interval}), {self.verdict}"


@dataclass(frozen=True)
class Paced:
    """Open-loop arrivals at ``fps``: the deadline of a frame is the arrival of the next frame."""

    fps: float
    missed_share: float  # of the frames, 0..1
    lateness_p50_ms: float  # beyond the deadline; 0 for a frame in time
    lateness_max_ms: float
    queue_mean: float  # frames that wait when one is taken up
    queue_max: int
    lateness_p99_ms: float | None = None  # None below 662 frames


@dataclass(frozen=True)
class GpuState:
    """The state of the GPU while a latency was measured.

    Shares are of the readings; ``unknown`` lists items that the driver denies.
    """

    # cause -> seconds by the driver's counters, blocks set aside included
    throttled_s: dict[str, float] | None = None
    sm_mhz: dict[str, float] | None = None  # clock -> share
    temperature_c: int | None = None  # highest
    power_w: float | None = None  # mean
    idle_power_w: float | None = None  # before the series
    idle_share: float | None = None  # clocks dropped for want of work
    joules_per_image: float | None = None  # sustained mode only
    net_joules_per_image: float | None = None  # without what the idle GPU draws
    unknown: str | None = None
    other_programs: int | None = None  # seen on the GPU at any time of the series; 0: none
    # cause -> part of the watched time, by counters or polled reasons
    throttled_share: dict[str, float] | None = None
    rested_s: float | None = None  # rests after blocks in which the clock fell


@dataclass(frozen=True)
class PartTime:
    """Median time of one part of the work on a frame in ms, with its 95 % interval within the
    session; ``None``: too few samples for an interval.
    """

    median_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    samples_sha256: str | None = None  # names the file of raw samples next to the store


@dataclass(frozen=True)
class FrameTimes:
    """The times of the parts of the way from a frame in memory to its detections
    (:mod:`rfdetr_repro.bench.parts` says what each part includes).
    """

    height: int  # of the frame, px
    width: int
    preprocessing: PartTime  # from uint8 RGB to the input tensor
    network: PartTime  # from the input tensor to the model's outputs in host memory
    postprocessing: PartTime  # to boxes in pixels, labels, scores and run lengths of masks
    decoding: PartTime | None = None  # of a JPEG in memory to uint8 RGB; None: not measured
    num_samples: int | None = None  # of every part
    jpeg_bytes: int | None = None  # size of the JPEG that was decoded
    measured_at: str | None = None  # UTC, ISO 8601; may be later than the latency

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) of the frame in px."""
        return self.height, self.width

    @property
    def whole_ms(self) -> float:
        """Sum of the medians of preprocessing, network and post-processing, in ms."""
        return self.preprocessing.median_ms + self.network.median_ms + self.postprocessing.median_ms


@dataclass(frozen=True)
class Latency:
    """Latency of one run in milliseconds, with the statistics and the circumstances of its samples.
    A run is one image, or the batch of the protocol.
    """

    median_ms: float  # from arrival to result when paced
    method: str = "measured"  # "measured" or "modelled" (additive latency model) or "published"
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    p05_ms: float | None = None
    p90_ms: float | None = None  # None below 64 samples
    p95_ms: float | None = None
    p99_ms: float | None = None  # None below 662 samples
    num_samples: int | None = None
    num_dropped: int | None = None  # samples that were taken and are not part of the median
    stop_reason: str | None = None
    images_per_s: float | None = None
    cuda_graph: bool | None = None
    throttled: str = "unknown"  # "no", "yes: CAUSE", "unknown"
    artifact_sha256: str | None = None
    samples_sha256: str | None = None  # names the file of raw samples next to the store
    # of the latency model behind it: median relative error on engines left out of the fit
    heldout_error: float | None = None
    p999_ms: float | None = None  # None below 6636 samples
    # between two events on the GPU's stream, where the backend takes them
    gpu_median_ms: float | None = None
    # where there are several; `artifact_sha256` is the first one's
    builds: tuple[Build, ...] | None = None
    between_builds_ms: float | None = None  # largest median of a build - smallest
    warm_up: str | None = None  # how a warm-up by trend ended
    paced: Paced | None = None
    gpu: GpuState | None = None
    interval: str | None = None  # what the interval rests on, or why there is none
    num_blocks: int | None = None  # of neighbouring samples, over all builds
    effective_blocks: float | None = None  # independent blocks with the same information
    # samples taken while the GPU throttled: kept, and marked in the samples' file
    num_marked: int | None = None
    # rows of the same session were interleaved; an interval holds for its session
    session: str | None = None
    itself: Itself | None = None
    # time of the suppression that was added to a file of another project
    suppression_ms: float | None = None
    heldout_p95: float | None = None  # 95 % of the held-out errors stay below this
    # measured only: the latency model's earlier prediction; heldout_error is the error stated with
    # it
    predicted_ms: float | None = None
    # where confirmed files joined the fit: the earlier model's median error on these files
    confirmed_error: float | None = None
    confirmed_worst: float | None = None  # the earlier model's largest error on these files
    images_per_s_low: float | None = None  # 95 % interval of `images_per_s`
    images_per_s_high: float | None = None
    # growth of a process that loads and runs nothing but the file (bench/memory.py)
    peak_memory_bytes: int | None = None
    # where the time goes from frames of several sizes to their detections; None: not measured
    parts: tuple[FrameTimes, ...] | None = None


@dataclass(frozen=True)
class Machine:
    """The machine that a latency was measured on, or whose latency was modelled."""

    cpu: str
    cores: int
    memory_gib: float
    os: str
    gpu: str | None = None
    driver: str | None = None
    gpu_uuid: str | None = None  # of the GPU that was measured


@dataclass(frozen=True)
class Published:
    """Where a published number is printed."""

    table: str  # "2", "v2_17", ...
    row: int  # 0-based line of the CSV
    version: str  # "v1", "v2", "v1+v2"
    section: str = ""
    latency_backend: str = ""
    note: str = ""
    citation: str = ""
