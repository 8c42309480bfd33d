"""Arguments of the benchmark command, and what they name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rfdetr_repro.bench.gpu.device import uses_gpu
from rfdetr_repro.data.source import add_data_arguments
from rfdetr_repro.paper.campaigns import CAMPAIGNS
from rfdetr_repro.spec.arch import parse_shape
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    folder_names,
    former_names,
    input_file,
    input_path,
    label,
    number,
    output_file,
    whole,
    wholes,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import LABELS_HELP
from rfdetr_repro.spec.protocol import (
    AP_GATES,
    BACKENDS,
    MEASURED_PRECISIONS,
    OF_ENGINES,
    REAL,
    WHOLE,
    WITH_GRAPH,
    Protocol,
)

from .parts import add_parts, check_parts
from .precisions import precisions
from .protocols import (
    BUILDS,
    FORMAL_S,
    LONG_S,
    PROTOCOLS,
    QUICK_BUILDS,
    QUICK_SAMPLES,
    modes_of,
)
from .runtimes import backends, device_api, first_backend, thread_counts

Kind = TypeVar("Kind")
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
GRAPHS = {"off": (False,), "on": (True,), "both": (False, True)}
# limits of a series: a day, a million samples, and one frame in 100 s
LONGEST_S = 86_400.0
MOST_SAMPLES = 10**6
FPS = (0.01, 10_000.0)
_GRAPH = (
    "replay a CUDA graph, captured before timing, on backends that support CUDA graphs; both: "
    "measure a row with and a row without the graph"
)
_SECONDS = (
    f"seconds to measure in the sustained mode after the warm-up (default: {LONG_S:g} on a GPU; on "
    f"a CPU, until the stop rule is met)"
)
_TWICE = (
    "measure the first model twice, as if the second time were another model, to find the error of "
    "the measurement itself (default: only with several models)"
)
_EPILOG = (
    "Exit codes: 0 done, 1 a row failed (the others are stored), 2 bad arguments or bad input."
)


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parsed = ArgumentParser(
        "rfdetr_repro.bench",
        description="Measures the latency of models and, with --data, their accuracy, and stores "
        "both as Records.",
        epilog=_EPILOG,
        examples=(
            "bench --model a.onnx b.onnx --data DIR --protocol both",
            "bench --model mine=a.onnx --models dfine-s=FILE --data DIR --quick",
            "bench --models rfdetr-nano --batch 1,2,4,8",
            "bench --model a.onnx --parts 480x640,1080x1920,2160x3840",
            "bench --campaign buffer-sweep --models rfdetr-medium",
        ),
    )
    what = parsed.add_argument_group("what is measured")
    onnx = what.add_argument(
        "--model",
        "--onnx",
        dest="onnx",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]MODEL",
        help="models: files (ONNX files of any detector, engines, checkpoints), run folders, or "
        "names of sizes such as nano; files without a manifest are adopted or exported first; a "
        "NAME is printed and stored in place of the file's own",
    )
    former_names(onnx, ("--onnx",))
    what.add_argument(
        "--models",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME[=WEIGHTS]",
        help="models to build, each with its own weights, such as dfine-s=weights.safetensors, or "
        "with random weights, which allow latency only; separated by commas or spaces; "
        "rfdetr-repro baselines lists the other detectors",
    )
    what.add_argument(
        "--checkpoint",
        type=input_path,
        help="weights for the model that --models names, where it names one model without weights",
    )
    what.add_argument("--labels", help=f"for weights of RF-DETR: {LABELS_HELP}")
    what.add_argument(
        "--precision",
        default="",
        help=f"precisions to measure, one or several of {', '.join(MEASURED_PRECISIONS)}, such as "
        "fp32,int8; files are converted where needed, to int8 by the train split of --data; in "
        "bf16, and in fp16 with the torch backends, the runtime computes a float32 file, where the "
        "device can (default: the precision of each file)",
    )
    add_wishes(
        parsed.add_argument_group(
            "how to read an ONNX file without a manifest, where the file itself does not tell"
        )
    )
    what.add_argument(
        "--nms-score",
        type=number(0, 1, "[)"),
        default=0.01,
        help="least confidence of a box that enters non-maximum suppression, for raw YOLO outputs",
    )
    what.add_argument(
        "--nms-iou",
        type=number(0, 1, "(]"),
        default=0.7,
        help="IoU above which the lower-scoring box is suppressed, for raw YOLO outputs",
    )
    what.add_argument(
        "--nms-candidates",
        type=whole(1, 10**6),
        default=1000,
        help="number of best scores that enter non-maximum suppression, for raw YOLO outputs",
    )
    what.add_argument(
        "--multi-label",
        action="store_true",
        help="let every class of a box be a candidate, not only its best class, for raw YOLO "
        "outputs",
    )
    what.add_argument(
        "--inject",
        type=whole(0, 10**6),
        help="number of scores to raise above the confidence threshold, for models with random "
        "weights that end with suppression",
    )
    what.add_argument(
        "--random-weights",
        action="store_true",
        help="state that the weights in ONNX files without a manifest are random, so that only "
        "latency is measured",
    )
    add_data_arguments(what, "without data only latency is measured", ("val", "test"))
    what.add_argument(
        "--split",
        default="val",
        type=folder_names,
        help="split of --data to evaluate, or several, such as val,test",
    )
    what.add_argument(
        "--ap-gate",
        type=number(0, 100),
        help="largest loss of AP, in points, against the float32 file of the same model; a larger "
        "loss gives exit code 1 (default: "
        + ", ".join(f"{points} for {name}" for name, points in AP_GATES.items())
        + ")",
    )
    how = parsed.add_argument_group("how to measure")
    how.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="buffered: wait before each sample; sustained: closed loop without waits; paced: "
        "frames arrive at a fixed rate; both: buffered and sustained; all: all three modes "
        "(default: buffered, and sustained with --batch)",
    )
    how.add_argument(
        "--batch",
        type=wholes(*WHOLE["batch"]),
        default=[1],
        metavar="NUMBER,...",
        help="numbers of images of one run, such as 1,2,4,8; images per second are measured in the "
        "sustained mode (default: 1)",
    )
    how.add_argument(
        "--quick",
        action="store_true",
        help=f"take a first look: {QUICK_SAMPLES} samples of each of {QUICK_BUILDS} builds; the "
        "Records and the table say quick, and no ranking or frontier mixes them with full "
        "measurements",
    )
    how.add_argument(
        "--campaign",
        choices=CAMPAIGNS,
        help="measure the models of one of the paper's tables by the table's protocol",
    )
    how.add_argument(
        "--scope",
        choices=("engine", "device", "host"),
        default="engine",
        help="work in a sample; engine: the model alone; device: with the copies to and from the "
        "device; host: from an encoded image to detections in pixels",
    )
    add_parts(how)
    how.add_argument(
        "--backend",
        type=backends,
        metavar="NAME,...",
        help=f"runtime that runs the files: {', '.join(BACKENDS)}; or onnxruntime,openvino or "
        "torch,torch-graph for both, in turns (default: those of the first two that are installed; "
        "onnxruntime with --campaign and --models)",
    )
    how.add_argument(
        "--cuda-graph", choices=tuple(GRAPHS), nargs="?", const="on", default="off", help=_GRAPH
    )
    how.add_argument(
        "--device-api",
        type=device_api,
        metavar="torch|pycuda[:NUMBER]",
        help="library that gives a TensorRT engine its memory, stream and events, and the number "
        "of the GPU among those that CUDA shows, such as pycuda:1 (default: torch where PyTorch "
        "sees a GPU, else pycuda)",
    )
    how.add_argument(
        "--buffer-ms",
        type=number(*REAL["buffer_ms"]),
        default=Protocol.buffer_ms,
        help="wait before each sample of the buffered mode, in ms",
    )
    how.add_argument(
        "--spin-ms",
        type=number(*REAL["spin_ms"]),
        default=0.0,
        help="last part of the wait of the buffered mode, in ms, in which the GPU is kept busy",
    )
    how.add_argument(
        "--flush-l2",
        action="store_true",
        help="overwrite the GPU's L2 cache before each sample, so that samples start with a cold "
        "cache",
    )
    how.add_argument(
        "--fps",
        type=number(*FPS),
        default=30.0,
        help="frames that arrive per second in the paced mode",
    )
    how.add_argument("--seconds", type=number(0, LONGEST_S), nargs="?", const=LONG_S, help=_SECONDS)
    how.add_argument(
        "--formal",
        action="store_true",
        help=f"measure for a publication: {FORMAL_S:g} s in the sustained mode, 200 samples in the "
        f"buffered mode, at least {BUILDS} builds",
    )
    how.add_argument(
        "--builds",
        type=whole(*WHOLE["builds"]),
        help="number of sessions, or engines, to build and measure of every model; 4 builds "
        f"resolve differences of 2 %% (default: {BUILDS}, or {QUICK_BUILDS} with --quick)",
    )
    how.add_argument("--twice", action=argparse.BooleanOptionalAction, default=None, help=_TWICE)
    how.add_argument(
        "--threads",
        type=thread_counts,
        default=[Protocol.threads],
        metavar="NUMBER,...",
        help="numbers of intra-op threads of a CPU runtime, such as 1,2,all, measured one after "
        f"another; all: one for every core that the process may use (default: {Protocol.threads})",
    )
    how.add_argument(
        "--samples",
        type=whole(1, MOST_SAMPLES),
        help=f"least number of samples of each build (default: {Protocol.min_samples}, or "
        f"{QUICK_SAMPLES} with --quick)",
    )
    how.add_argument(
        "--force", action="store_true", help="measure even if other processes use the GPU"
    )
    how.add_argument(
        "--lock-clocks",
        action="store_true",
        help="lock the GPU to its base clock during the measurement",
    )
    parsed.add_argument(
        "--out",
        default="results/bench.jsonl",
        type=output_file,
        help="store to append to; measurements that the store already holds are not repeated",
    )
    parsed.add_argument(
        "--wide", action="store_true", help="print all columns, however narrow the terminal is"
    )
    return parsed


def add_wishes(group: argparse._ArgumentGroup) -> None:
    """Adds the options that describe a file of another program.

    An option that is left out is inferred from the file and from a run on images, and printed.
    """
    add_output_wishes(group)
    group.add_argument(
        "--shape",
        type=parse_shape,
        help="height x width of the input, such as 384x640, for a file that leaves the size open",
    )
    group.add_argument(
        "--antialias",
        action=argparse.BooleanOptionalAction,
        help="whether the resize averages over pixels when an image shrinks",
    )


OUTPUT_WISHES = ("form", "boxes", "classes", "normalise", "resize")


def add_output_wishes(group: argparse._ArgumentGroup) -> None:
    """Adds the options of OUTPUT_WISHES, for commands with their own ``--shape``."""
    group.add_argument(
        "--form",
        choices=FORMS,
        help="format of the model's outputs (docs/any_onnx.md lists the formats)",
    )
    group.add_argument(
        "--boxes",
        choices=BOXES,
        help="order of a box's four numbers, and their unit: pixels of the input, or relative to "
        "the input's size",
    )
    group.add_argument(
        "--classes",
        choices=CLASSES,
        help="category of output class k; order: the k-th category; ids: the category with id k; "
        "background-first: the k-th category, and class 0 is no object",
    )
    group.add_argument(
        "--normalise",
        choices=NORMALISE,
        help="normalisation that the model's input needs, starting from RGB in 0..1",
    )
    group.add_argument(
        "--resize", choices=RESIZE, help="how an image is resized to the model's input"
    )


def check(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for arguments that contradict each other, before anything is
    loaded.
    """
    if not args.onnx and not names(args) and args.campaign is None:
        raise InputError(
            "nothing to measure", hint="give --model FILE..., --models NAME,... or --campaign NAME"
        )
    backend = first_backend(args)
    if (args.spin_ms or args.flush_l2) and not uses_gpu(backend):
        raise InputError(
            f"--spin-ms and --flush-l2 need a GPU, and the backend {backend} runs on the CPU",
            hint="leave them out",
        )
    if args.spin_ms and "buffered" not in PROTOCOLS[modes_of(args)]:
        raise InputError(
            f"--spin-ms is part of the wait of the buffered mode, and the mode {modes_of(args)} "
            f"has no wait",
            hint="leave --spin-ms out",
        )
    if args.inject is not None and args.checkpoint is not None:
        raise InputError(
            "--inject is for random weights, and --checkpoint gives trained weights",
            hint="leave one of them out",
        )
    named = models_of(args)
    if args.labels is not None and not any(weights for _, weights in named):
        raise InputError(
            "--labels states the meaning of the labels of weights, and no weights are given",
            hint="give --checkpoint too",
        )
    if args.inject is not None and any(weights for _, weights in named):
        raise InputError(
            "--inject is for random weights, and --models names trained weights",
            hint="leave one of them out",
        )
    _check_extent(args)
    check_parts(args)
    precisions(args)
    if args.device_api is not None and backend not in OF_ENGINES:
        raise InputError(
            f"--device-api is for TensorRT engines, and the backend {backend} runs none",
            hint=f"leave --device-api out, or choose --backend {' or '.join(OF_ENGINES)}",
        )
    if args.cuda_graph != "off":
        _check_graph(backend, args.backend)


def _check_graph(first: str, backends: Sequence[str] | None) -> None:
    """Raises :class:`InputError` where --cuda-graph does not fit --backend, whose first is
    ``first``.
    """
    if first not in (*WITH_GRAPH, "torch"):
        raise InputError(
            f"the backend {first} cannot replay a CUDA graph",
            hint=f"choose one of {', '.join(WITH_GRAPH)}, or leave --cuda-graph out",
        )
    if len(backends or ()) > 1:
        raise InputError(
            "--cuda-graph is for one backend, and --backend names several",
            hint="leave --cuda-graph out; torch-graph always replays a CUDA graph",
        )


def _check_extent(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` where --quick, --batch and the protocol contradict each other."""
    if args.quick and args.formal:
        raise InputError(
            "--quick is for a first look, and --formal for a publication",
            hint="leave one of them out",
        )
    several = args.batch != [1]
    if several and args.campaign is not None:
        raise InputError(
            f"the campaign {args.campaign} measures one image at a time, as the paper does",
            hint="leave --batch out",
        )
    if several and "paced" in PROTOCOLS[modes_of(args)]:
        raise InputError(
            "frames of the paced mode arrive one at a time",
            hint="leave --batch out, or choose --protocol both",
        )


def models_of(args: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """The names in --models with their weights, None for random weights.

    Raises :class:`InputError` for weights that are not there or that are given twice, and for
    --checkpoint without exactly one model that it can belong to.
    """
    found: list[tuple[str, Path | None]] = []
    for part in (part.strip() for text in args.models for part in text.split(",")):
        name, given, weights = part.partition("=")
        if given and not (name.strip() and weights.strip()):
            raise InputError(f"{part!r} is not NAME=WEIGHTS", "--models", "write name=file")
        if name:
            path = _checked(input_file, weights.strip(), "--models") if given else None
            found.append((name.strip(), path))
    if args.checkpoint is None:
        return found
    if len(found) != 1 or found[0][1] is not None:
        hint = "give each its own: --models NAME=FILE" if found else "name one with --models"
        raise InputError("--checkpoint needs exactly one model without weights", hint=hint)
    return [(found[0][0], args.checkpoint)]


def _checked(kind: Callable[[str], Kind], text: str, where: str) -> Kind:
    """A part of an argument, by the type of a whole argument."""
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error), where) from error


def names(args: argparse.Namespace) -> list[str]:
    """The names in --models."""
    return [name for name, _ in models_of(args)]


def files_of(args: argparse.Namespace) -> list[tuple[str | None, str]]:
    """The models in --model with the names that they are given, None for the file's own.

    A text that is a path is one, even if it holds an equals sign.
    """
    found: list[tuple[str | None, str]] = []
    for text in args.onnx:
        name, given, path = text.partition("=")
        if given and "/" not in name and not Path(text).exists():
            found.append((_checked(label, name.strip(), "--model"), path))
        else:
            found.append((None, text))
    return found


def split_names(text: str) -> list[str]:
    """The splits in a text such as ``"val,test"``, each once; raises :class:`InputError` if there
    is none.
    """
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise InputError(f"{text!r} names no split", hint="write val, or val,test")
    return found
