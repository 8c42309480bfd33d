"""Arguments of the benchmark command that contradict each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.bench.gpu.device import uses_gpu
from rfdetr_repro.spec.arguments import refuse
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import OF_ENGINES, WITH_GRAPH

from .named_inputs import models_of, names
from .parts import check_parts
from .precisions import precisions
from .protocols import PROTOCOLS, modes_of
from .runtimes import first_backend


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
    _check_modes(args)
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


def _check_modes(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for arguments of a mode that is not measured."""
    modes: Sequence[str] = PROTOCOLS[modes_of(args)]
    if args.campaign is not None:
        refuse({"--protocol": args.protocol}, "with --campaign, which has a protocol of its own")
        modes = ("buffered",)
    if args.campaign == "buffer-sweep":
        refuse({"--buffer-ms": args.buffer_ms}, "with a campaign that sweeps over waits")
    if "buffered" not in modes:
        refuse({"--buffer-ms": args.buffer_ms}, "where the buffered mode is not measured")
    if "sustained" not in modes:
        refuse({"--seconds": args.seconds}, "where the sustained mode is not measured")
    if "paced" not in modes:
        refuse({"--fps": args.fps}, "where the paced mode is not measured")


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
