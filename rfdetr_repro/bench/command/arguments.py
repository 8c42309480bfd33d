"""Arguments of the benchmark command."""

from __future__ import annotations

import argparse

from rfdetr_repro.data.source import add_data_arguments
from rfdetr_repro.paper.campaigns import CAMPAIGNS
from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    folder_names,
    former_names,
    input_path,
    number,
    output_file,
    whole,
    wholes,
)
from rfdetr_repro.spec.labels import LABELS_HELP
from rfdetr_repro.spec.protocol import (
    AP_GATES,
    BACKENDS,
    MEASURED_PRECISIONS,
    REAL,
    WHOLE,
    Protocol,
)

from .parts import add_parts
from .protocols import (
    BUILDS,
    FORMAL_S,
    LONG_S,
    PROTOCOLS,
    QUICK_BUILDS,
    QUICK_SAMPLES,
    USUAL_FPS,
)
from .runtimes import backends, device_api, thread_counts
from .wishes import add_wishes

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
        help="wait before each sample of the buffered mode, in ms (default: "
        f"{Protocol.buffer_ms:g})",
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
        help=f"frames that arrive per second in the paced mode (default: {USUAL_FPS:g})",
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
