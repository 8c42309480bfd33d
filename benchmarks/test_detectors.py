"""Latency of exported pico subnets by the protocol: 200 ms before every sample (buffered) or none
(sustained); every backend.

Random weights: a static graph takes the same time whatever its weights, and rows say so; there is
no accuracy here. Few samples, to end within a minute; ``python -m rfdetr_repro.bench`` measures in
full. ``extra_info``: file hash, backend, scope, protocol, tails, throttle state, what NVML saw, and
the Record. A backend that is not there is skipped with its reason. Run: pytest
benchmarks/test_detectors.py --benchmark-only
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.subjects import pico_artifact
from rfdetr_repro.bench.gpu.device import uses_gpu, watching
from rfdetr_repro.bench.gpu.state import gpu_state
from rfdetr_repro.bench.gpu.watch import GpuWatch
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.bench.scopes import timed_call
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import Latency, Record
from rfdetr_repro.records.statistics import summarise
from rfdetr_repro.runtime.backends import BACKENDS, open_session
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO
from rfdetr_repro.spec.protocol import Protocol

# a small one, the base, a large one
ARCHS = [Arch(96, 16, 1, 0, 10), PICO.arch, Arch(160, 12, 2, 2, 25)]
PROTOCOLS = {
    "buffered": Protocol("buffered", warmup=5, min_samples=20, max_samples=20),
    "sustained": Protocol("sustained", buffer_ms=0, warmup=5, min_samples=64, max_samples=64),
    "device": Protocol(
        "sustained", "device", buffer_ms=0, warmup=5, min_samples=64, max_samples=64
    ),
    "host": Protocol("sustained", "host", buffer_ms=0, warmup=5, min_samples=64, max_samples=64),
}
ROWS = [("onnxruntime", arch, name) for arch in ARCHS for name in ("buffered", "sustained")]
ROWS += [("onnxruntime", PICO.arch, name) for name in ("device", "host")]
ROWS += [
    (backend, PICO.arch, name) for backend in BACKENDS[1:] for name in ("buffered", "sustained")
]
# what NVML may tell
SEEN = ("throttled_s", "sm_mhz", "temperature_c", "power_w", "idle_share", "joules_per_image")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Arch, str], Artifact]:
    """Exports an architecture once in the format of a backend; all are slices of one seeded
    supernet.
    """
    folder = tmp_path_factory.mktemp("artifacts")

    @cache
    def made(arch: Arch, form: str) -> Artifact:
        return pico_artifact(folder, arch, form)

    return lambda arch, backend: made(arch, "torch" if backend.startswith("torch") else "onnx")


@pytest.fixture(scope="module")
def watch() -> Iterator[GpuWatch | str]:
    """The watch on the GPU, or why there is none."""
    try:
        with watching() as watched:
            yield watched.watch
    except InputError as error:
        yield str(error)


@pytest.mark.parametrize(
    ("backend", "arch", "name"), ROWS, ids=[f"{row[0]}-{row[1].key}-{row[2]}" for row in ROWS]
)
def test_latency(
    backend: str,
    arch: Arch,
    name: str,
    artifacts: Callable[[Arch, str], Artifact],
    watch: GpuWatch | str,
    benchmark: Any,
) -> None:
    """Latency of an artifact by the protocol's measurement loop."""
    protocol = PROTOCOLS[name]
    gpu = uses_gpu(backend)
    if gpu and isinstance(watch, str):
        pytest.skip(watch)
    try:
        session = open_session(artifacts(arch, backend), backend, threads=protocol.threads)
    except InputError as error:
        pytest.skip(str(error))
    call = timed_call(session, protocol.scope, None)
    mark = watch.mark() if gpu else 0
    wait = (lambda: time.sleep(protocol.buffer_ms / 1e3)) if protocol.mode == "buffered" else None
    benchmark.pedantic(
        call, setup=wait, rounds=protocol.min_samples, iterations=1, warmup_rounds=protocol.warmup
    )
    found = session.outputs()
    assert found.scores.shape == (1, arch.queries) and np.isfinite(found.boxes_xyxy).all()
    if not benchmark.enabled:
        return
    samples_ms = 1e3 * np.array(benchmark.stats.stats.data)
    digest = session.artifact_id.sha256
    sustained = protocol.mode == "sustained"
    latency = summarise(
        samples_ms,
        stop_reason="fixed number of rounds",
        sustained=sustained,
        artifact_sha256=digest,
    )
    if gpu:
        latency = watched(latency, watch, mark, protocol, samples_ms)
    benchmark.extra_info.update(facts(session, protocol, latency))


def watched(
    latency: Latency, watch: GpuWatch, mark: int, protocol: Protocol, samples_ms: np.ndarray
) -> Latency:
    """The latency with the throttle state that the watch saw."""
    window = watch.since(mark)
    state = gpu_state(
        [(window, True, float(samples_ms.sum()) / 1e3)], None, protocol.mode, len(samples_ms)
    )
    return dataclasses.replace(latency, throttled=window.throttled, gpu=state)


def facts(session: Any, protocol: Protocol, latency: Latency) -> dict[str, Any]:
    """The facts in a saved row besides times: "n/a" is a tail of too few samples, "unknown" what
    could not be seen.
    """
    record = Record(
        "protocol",
        session.manifest.model,
        artifact=session.artifact_id,
        cost=session.manifest.cost,
        latency=latency,
        protocol=protocol,
        machine=this_machine(),
        env=environment(),
    )
    seen = {name: getattr(latency.gpu, name, None) for name in SEEN}
    return {
        "artifact_sha256": session.artifact_id.sha256,
        "backend": session.artifact_id.runtime,
        "options": session.artifact_id.options,
        "scope": protocol.scope,
        "protocol": dataclasses.asdict(protocol),
        "p90_ms": "n/a" if latency.p90_ms is None else latency.p90_ms,
        "p99_ms": "n/a" if latency.p99_ms is None else latency.p99_ms,
        "throttled": latency.throttled,
        "nvml": {name: "unknown" if value is None else value for name, value in seen.items()},
        "weights": "random",
        "record": json.loads(record.to_json()),
    }
