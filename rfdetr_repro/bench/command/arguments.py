"""Flags of the benchmark command, and the protocols they stand for."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rfdetr_repro.bench.gpu.device import uses_gpu
from rfdetr_repro.data.source import add_data_arguments
from rfdetr_repro.paper.campaigns import CAMPAIGNS
from rfdetr_repro.paper.published import BUFFERS_MS
from rfdetr_repro.spec.arch import parse_shape
from rfdetr_repro.spec.arguments import folder_names, input_path, number, output_file, whole
from rfdetr_repro.spec.errors import ArgumentParser, InputError
from rfdetr_repro.spec.labels import LABELS_HELP
from rfdetr_repro.spec.protocol import BACKENDS, MODES, REAL, WHOLE, WITH_GRAPH, Protocol
from rfdetr_repro.spec.ranges import choose

FORMS = (
    "decoded",
    "detr",
    "detr-softmax",
    "boxes-scores",
    "rows",
    "rows-seg",
    "rtdetr",
    "yolo",
    "yolo-seg",
    "yolo-objectness",
)
NORMALISE = ("none", "imagenet", "bytes", "bgr-bytes", "bgr")
RESIZE = ("stretch", "letterbox")
CLASSES = ("order", "ids", "background-first")
BOXES = tuple(
    f"{order}-{unit}"
    for order in ("xyxy", "cxcywh", "xywh", "yxyx")
    for unit in ("pixels", "relative")
)
# what --protocol takes -> modes
PROTOCOLS = {
    "buffered": ("buffered",),
    "sustained": ("sustained",),
    "paced": ("paced",),
    "both": MODES,
    "all": (*MODES, "paced"),
}
PRECISIONS = ("fp32", "fp16")
GRAPHS = {"off": (False,), "on": (True,), "both": (False, True)}
LONG_S = 60.0
FORMAL_S = 600.0
SETTLE_S = 30.0
# with fewer, a difference of 2 % between models is often not found
# (benchmarks/studies/interval_coverage.py)
BUILDS = 4
# of a series; a day, and one frame in 100 s, are the most
LONGEST_S = 86_400.0
MOST_SAMPLES = 10**6
FPS = (0.01, 10_000.0)
PACED_S = 10.0  # least time of a paced series, unless --samples says otherwise
_GRAPH = "captured before timing, on backends that have it; both: a row with and a row without it"
_SECONDS = (
    f"of the sustained mode, once it is flat (default: {LONG_S:g} on a GPU, else as long as the "
    f"stop rule wants)"
)
_TWICE = (
    "measure the first model a second time, as if it were another one: the instrument's own error "
    "(default: with several)"
)
_EPILOG = (
    "Exit codes: 0 done, 1 a row failed (the others are stored), 2 bad arguments or bad input."
)


def parser() -> argparse.ArgumentParser:
    parsed = ArgumentParser(
        "rfdetr_repro.bench", description="Accuracy and latency as Records.", epilog=_EPILOG
    )
    what = parsed.add_argument_group("what is measured")
    what.add_argument(
        "--onnx",
        nargs="+",
        action="extend",
        default=[],
        help="artifacts with their manifests, or any ONNX files",
    )
    what.add_argument(
        "--models", default="", help="names, separated by commas, of models that can be built here"
    )
    what.add_argument(
        "--checkpoint",
        type=input_path,
        help="weights of the one model named by --models; without them they are random",
    )
    what.add_argument("--labels", help=f"of --checkpoint: {LABELS_HELP}")
    what.add_argument(
        "--precision",
        default="",
        help="fp32, fp16 or both: converts the files; left out: as they are",
    )
    add_wishes(
        parsed.add_argument_group(
            "what an ONNX file without a manifest is, where the file does not say so itself"
        )
    )
    what.add_argument(
        "--nms-score",
        type=number(0, 1, "[)"),
        default=0.01,
        help="of YOLO's raw outputs: least confidence",
    )
    what.add_argument(
        "--nms-iou",
        type=number(0, 1, "(]"),
        default=0.7,
        help="of these: above it the worse of two boxes goes",
    )
    what.add_argument(
        "--nms-candidates",
        type=whole(1, 10**6),
        default=1000,
        help="of these: best scores that enter the suppression",
    )
    what.add_argument(
        "--multi-label",
        action="store_true",
        help="of these: every class of a box counts, not its best only",
    )
    what.add_argument(
        "--inject",
        type=whole(0, 10**6),
        help="random weights, suppression inside: so many scores above its threshold",
    )
    what.add_argument(
        "--random-weights",
        action="store_true",
        help="of such files: they are not trained, so latency only",
    )
    add_data_arguments(what, "without data only latency is measured", ("val", "test"))
    what.add_argument(
        "--split",
        default="val",
        type=folder_names,
        help="or several, like val,test: one latency, an accuracy on each",
    )
    what.add_argument(
        "--ap-gate",
        type=number(0, 100),
        default=0.3,
        help="points of AP that FP16 may lose to FP32 of the same model",
    )
    how = parsed.add_argument_group("how")
    how.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="buffered",
        help="a wait before each sample, closed loop, fixed rate",
    )
    how.add_argument(
        "--campaign", choices=CAMPAIGNS, help="rows and protocols of one of the paper's tables"
    )
    how.add_argument(
        "--scope",
        choices=("engine", "device", "host"),
        default="engine",
        help="what a sample contains",
    )
    how.add_argument(
        "--backend", default="onnxruntime", choices=BACKENDS, help="what runs the files"
    )
    how.add_argument(
        "--cuda-graph", choices=tuple(GRAPHS), nargs="?", const="on", default="off", help=_GRAPH
    )
    how.add_argument(
        "--buffer-ms",
        type=number(*REAL["buffer_ms"]),
        default=Protocol.buffer_ms,
        help="wait before each sample of the buffered mode",
    )
    how.add_argument(
        "--spin-ms",
        type=number(*REAL["spin_ms"]),
        default=0.0,
        help="last part of that wait in which the GPU is kept busy",
    )
    how.add_argument(
        "--flush-l2",
        action="store_true",
        help="overwrite the GPU's L2 cache before each sample: cold, not hot",
    )
    how.add_argument(
        "--fps", type=number(*FPS), default=30.0, help="arrivals per second of the paced mode"
    )
    how.add_argument("--seconds", type=number(0, LONGEST_S), nargs="?", const=LONG_S, help=_SECONDS)
    how.add_argument(
        "--formal",
        action="store_true",
        help=f"{FORMAL_S:g} s sustained, 200 samples buffered, at least 4 builds",
    )
    how.add_argument(
        "--builds",
        type=whole(*WHOLE["builds"]),
        default=BUILDS,
        help="sessions, or engines, of every model; 4 tell 2 %% apart",
    )
    how.add_argument("--twice", action=argparse.BooleanOptionalAction, default=None, help=_TWICE)
    how.add_argument(
        "--threads",
        type=whole(*WHOLE["threads"]),
        default=Protocol.threads,
        help="intra-op threads of a CPU runtime",
    )
    how.add_argument(
        "--samples",
        type=whole(1, MOST_SAMPLES),
        help=f"least number of samples of a build (default {Protocol.min_samples})",
    )
    how.add_argument(
        "--force", action="store_true", help="measure although other processes use the GPU"
    )
    how.add_argument(
        "--lock-clocks",
        action="store_true",
        help="lock the GPU to its base clock while it is measured",
    )
    parsed.add_argument(
        "--out",
        default="results/bench.jsonl",
        type=output_file,
        help="store to append to; what it holds is not measured again",
    )
    return parsed


def add_wishes(group: argparse._ArgumentGroup) -> None:
    """Options for somebody else's file; each one left out is told from the file and from a run on
    pictures, and printed.
    """
    group.add_argument(
        "--form",
        choices=FORMS,
        help="what the outputs are, as rfdetr_repro/export/adopt/forms.py lists them",
    )
    group.add_argument(
        "--boxes",
        choices=BOXES,
        help="order of a box's four numbers, and pixels of the input or parts of it",
    )
    group.add_argument(
        "--classes",
        choices=CLASSES,
        help="class k is the k-th category, or category id k, or class 0 is none",
    )
    group.add_argument(
        "--shape",
        type=parse_shape,
        help="height x width of the input, like 384x640, if the file leaves it open",
    )
    group.add_argument(
        "--normalise", choices=NORMALISE, help="what the model's input needs after RGB in 0..1"
    )
    group.add_argument(
        "--resize", choices=RESIZE, help="how a picture is made the size of the model's input"
    )
    group.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="whether that resize averages over pixels",
    )


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot be run, before anything is loaded."""
    if not args.onnx and not names(args) and args.campaign is None:
        raise InputError(
            "nothing to measure", hint="give --onnx FILE..., --models NAME,... or --campaign NAME"
        )
    if (args.spin_ms or args.flush_l2) and not uses_gpu(args.backend):
        raise InputError(
            f"--spin-ms and --flush-l2 are for a GPU, and {args.backend} has none",
            hint="leave them out",
        )
    if args.spin_ms and "buffered" not in PROTOCOLS[args.protocol]:
        raise InputError(
            f"--spin-ms is part of the wait of the buffered mode, {args.protocol} has none",
            hint="leave it out",
        )
    if args.inject is not None and args.checkpoint is not None:
        raise InputError(
            "--inject is for random weights, and --checkpoint has others",
            hint="leave one of them out",
        )
    if args.labels is not None and args.checkpoint is None:
        raise InputError(
            "--labels says what the labels of --checkpoint mean", hint="give --checkpoint too"
        )
    for precision in precisions(args):
        choose(precision, PRECISIONS, "precision")
    if args.cuda_graph != "off" and args.backend not in (*WITH_GRAPH, "torch"):
        raise InputError(
            f"{args.backend} has no CUDA graph",
            hint=f"choose one of {', '.join(WITH_GRAPH)}, or leave it out",
        )
    if args.checkpoint is not None and len(names(args)) != 1:
        raise InputError("--checkpoint belongs to one model", hint="name one with --models")


def names(args: argparse.Namespace) -> list[str]:
    return [name.strip() for name in args.models.split(",") if name.strip()]


def split_names(text: str) -> list[str]:
    """``"val,test"`` -> each once; none at all is an :class:`InputError`."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise InputError(f"{text!r} names no split", hint="write val, or val,test")
    return found


def precisions(args: argparse.Namespace) -> list[str]:
    """Wanted precisions; none: the files' own."""
    given = [part.strip() for part in args.precision.split(",") if part.strip()]
    return given or (list(PRECISIONS) if args.campaign == "table1" else [])


def protocols_of(args: argparse.Namespace) -> list[Protocol]:
    """One Protocol per mode, or per wait of the buffer sweep."""
    samples = args.samples or (200 if args.formal else Protocol.min_samples)
    most = max(samples, Protocol.max_samples)
    wait_s = samples * args.buffer_ms / 1e3
    base = Protocol(
        scope=args.scope,
        buffer_ms=args.buffer_ms,
        min_samples=samples,
        max_samples=samples if args.formal else most,
        timeout_s=max(Protocol.timeout_s, 3 * wait_s),
        builds=max(args.builds, BUILDS) if args.formal else args.builds,
        threads=args.threads,
        spin_ms=args.spin_ms,
        flush_l2=args.flush_l2,
    )
    if args.campaign == "buffer-sweep":
        return [_waiting(base, buffer_ms) for buffer_ms in BUFFERS_MS]
    if args.campaign is not None:
        return [base]
    return [_of_mode(base, mode, args) for mode in PROTOCOLS[args.protocol]]


def _waiting(base: Protocol, buffer_ms: float) -> Protocol:
    limit_s = max(Protocol.timeout_s, 3 * base.min_samples * buffer_ms / 1e3)
    return replace(
        base, buffer_ms=buffer_ms, timeout_s=limit_s, spin_ms=min(base.spin_ms, buffer_ms)
    )


def _of_mode(base: Protocol, mode: str, args: argparse.Namespace) -> Protocol:
    if mode != "buffered":
        base = replace(base, spin_ms=0.0)  # there is no wait
    if mode == "sustained":
        wanted = (
            args.seconds if args.seconds is not None else LONG_S if uses_gpu(args.backend) else 0.0
        )
        seconds = max(wanted, FORMAL_S) if args.formal else wanted
        limit_s = max(Protocol.timeout_s, 2 * seconds)
        return replace(
            base,
            mode=mode,
            buffer_ms=0.0,
            min_time_s=seconds,
            settle_s=min(SETTLE_S, seconds / 2),
            timeout_s=limit_s,
        )
    if mode == "paced":
        frames = args.samples or max(Protocol.min_samples, round(PACED_S * args.fps))
        limit_s = max(Protocol.timeout_s, 3 * frames / args.fps)
        return replace(
            base,
            mode=mode,
            buffer_ms=0.0,
            fps=args.fps,
            min_samples=frames,
            max_samples=frames,
            timeout_s=limit_s,
        )
    return base
