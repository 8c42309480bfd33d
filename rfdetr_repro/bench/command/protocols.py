"""The protocols that the arguments of the benchmark command describe."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rfdetr_repro.bench.gpu.device import uses_gpu
from rfdetr_repro.paper.published import BUFFERS_MS
from rfdetr_repro.spec.protocol import MODES, Protocol

from .runtimes import first_backend

# what --protocol takes -> modes
PROTOCOLS = {
    "buffered": ("buffered",),
    "sustained": ("sustained",),
    "paced": ("paced",),
    "both": MODES,
    "all": (*MODES, "paced"),
}
LONG_S = 60.0
FORMAL_S = 600.0
SETTLE_S = 30.0
# with fewer, a difference of 2 % between models is often not found
# (benchmarks/studies/interval_coverage.py)
BUILDS = 4
# of --quick: enough for an interval, whose width tells how little is known
QUICK_SAMPLES = 32
QUICK_BUILDS = 2
QUICK_S = 5.0  # timed seconds of a series that ends by time
USUAL_FPS = 30.0  # of the paced mode, unless --fps is given
PACED_S = 10.0  # least duration of a paced series in s, unless --samples or --quick is given


def modes_of(args: argparse.Namespace) -> str:
    """The value of --protocol, or its default: with --batch, images per second are asked for."""
    return args.protocol or ("buffered" if args.batch == [1] else "sustained")


def protocols_of(args: argparse.Namespace) -> list[Protocol]:
    """For every number of threads, one Protocol per mode, or, for the buffer sweep, one per
    wait.
    """
    return [protocol for threads in args.threads for protocol in _of_threads(args, threads)]


def _of_threads(args: argparse.Namespace, threads: int) -> list[Protocol]:
    usual = QUICK_SAMPLES if args.quick else 200 if args.formal else Protocol.min_samples
    samples = args.samples or usual
    most = samples if args.quick else max(samples, Protocol.max_samples)
    builds = args.builds or (QUICK_BUILDS if args.quick else BUILDS)
    buffer_ms = Protocol.buffer_ms if args.buffer_ms is None else args.buffer_ms
    wait_s = samples * buffer_ms / 1e3
    base = Protocol(
        scope=args.scope,
        buffer_ms=buffer_ms,
        min_samples=samples,
        max_samples=samples if args.formal else most,
        timeout_s=max(Protocol.timeout_s, 3 * wait_s),
        builds=max(builds, BUILDS) if args.formal else builds,
        threads=threads,
        spin_ms=args.spin_ms,
        flush_l2=args.flush_l2,
        quick=args.quick,
    )
    if args.campaign == "buffer-sweep":
        return [_waiting(base, buffer_ms) for buffer_ms in BUFFERS_MS]
    if args.campaign is not None:
        return [base]
    return [
        _of_mode(replace(base, batch=batch), mode, args)
        for mode in PROTOCOLS[modes_of(args)]
        for batch in args.batch
    ]


def _waiting(base: Protocol, buffer_ms: float) -> Protocol:
    limit_s = max(Protocol.timeout_s, 3 * base.min_samples * buffer_ms / 1e3)
    return replace(
        base, buffer_ms=buffer_ms, timeout_s=limit_s, spin_ms=min(base.spin_ms, buffer_ms)
    )


def _of_mode(base: Protocol, mode: str, args: argparse.Namespace) -> Protocol:
    if mode != "buffered":
        base = replace(base, spin_ms=0.0)  # without a wait there is no time to spin
    if mode == "sustained":
        long_s = QUICK_S if args.quick else LONG_S
        usual_s = long_s if uses_gpu(first_backend(args)) else 0.0
        wanted = usual_s if args.seconds is None else args.seconds
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
        fps = args.fps or USUAL_FPS
        usual = QUICK_SAMPLES if args.quick else max(Protocol.min_samples, round(PACED_S * fps))
        frames = args.samples or usual
        limit_s = max(Protocol.timeout_s, 3 * frames / fps)
        return replace(
            base,
            mode=mode,
            buffer_ms=0.0,
            fps=fps,
            min_samples=frames,
            max_samples=frames,
            timeout_s=limit_s,
        )
    return base
