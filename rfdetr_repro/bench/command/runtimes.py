"""The runtimes and the numbers of threads that a benchmark measures."""

from __future__ import annotations

import argparse
import importlib.util

from rfdetr_repro.bench.machine import usable_cores
from rfdetr_repro.export.tensorrt.cuda_device import Chosen
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import BACKENDS, IN_TORCH, WHOLE

ON_CPU = ("onnxruntime", "openvino")  # backends that run ONNX files on the CPU
IN_TURNS = (ON_CPU, IN_TORCH)  # backends that run the same files and can be measured together


def backends(text: str) -> list[str]:
    """The type of --backend: one runtime, or several of one group of IN_TURNS."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in BACKENDS:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no runtime; choose from {', '.join(BACKENDS)}"
            )
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names no runtime, or a runtime twice")
    if len(names) > 1 and not any(set(names) <= set(group) for group in IN_TURNS):
        groups = ", or ".join(" and ".join(group) for group in IN_TURNS)
        raise argparse.ArgumentTypeError(
            f"only {groups} can be measured in turns, because they run the same files"
        )
    return names


def device_api(text: str) -> str:
    """The type of --device-api: a library for CUDA devices, with a device number where needed."""
    try:
        Chosen.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def device_number(args: argparse.Namespace) -> int:
    """The number of the GPU that --device-api names, or the first."""
    return int((args.device_api or "").partition(":")[2] or 0)


def thread_counts(text: str) -> list[int]:
    """The type of --threads: different numbers of threads; "all" is the number of usable cores.

    Numbers that "all" repeats are left out.
    """
    number_of = whole(*WHOLE["threads"])
    given = [part.strip().lower() for part in text.split(",")]
    counts = [usable_cores() if part == "all" else number_of(part) for part in given]
    plain = [part for part in given if part != "all"]
    if len({number_of(part) for part in plain}) < len(plain) or given.count("all") > 1:
        raise argparse.ArgumentTypeError(f"{text!r} names a number of threads twice")
    return list(dict.fromkeys(counts))


def backends_of(args: argparse.Namespace) -> list[str]:
    """The runtimes to measure: those of --backend; without it, ONNX Runtime for a campaign, else
    every installed runtime of ON_CPU.
    """
    if args.backend is not None:
        return list(args.backend)
    return [ON_CPU[0]] if args.campaign is not None else installed_on_cpu()


def installed_on_cpu() -> list[str]:
    """The installed runtimes of ON_CPU, ONNX Runtime first."""
    return [name for name in ON_CPU if importlib.util.find_spec(name) is not None]


def first_backend(args: argparse.Namespace) -> str:
    """The runtime on which files of other programs are tried; all others run the same files."""
    return backends_of(args)[0]
