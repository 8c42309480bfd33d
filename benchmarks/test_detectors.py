"""Latency of exported pico subnets in ONNX Runtime, by the protocol: 200 ms before every sample (buffered) or none (sustained).

Random weights: a static graph takes the same time whatever its weights, and rows say so; there is no accuracy here. Few samples,
to end within a minute; ``python -m rfdetr_repro.bench`` measures in full. ``extra_info`` holds the Record.
Run: pytest benchmarks/test_detectors.py --benchmark-only
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rfdetr_repro.bench.confirm import example_input
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.bench.statistics import summarise
from rfdetr_repro.config import Arch, Protocol
from rfdetr_repro.export.artifact import ArtifactMeta
from rfdetr_repro.export.onnx import export_onnx
from rfdetr_repro.export.session import OrtSession
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.presets import PICO
from rfdetr_repro.record import ModelId, Record

ARCHS = [Arch(96, 16, 1, 0, 10), PICO.arch, Arch(160, 12, 2, 2, 25)]  # a small one, the base, a large one
PROTOCOLS = {
    "buffered": Protocol(mode="buffered", warmup=5, min_samples=20, max_samples=20),
    "sustained": Protocol(mode="sustained", warmup=5, min_samples=64, max_samples=64),
}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Arch], OrtSession]:
    """Exports an architecture once; all share one seeded supernet."""
    torch.manual_seed(0)
    supernet, folder, made = Detector(PICO.model, PICO.arch).eval(), tmp_path_factory.mktemp("artifacts"), {}
    names = tuple(f"class {label}" for label in range(PICO.model.num_classes))

    def session(arch: Arch) -> OrtSession:
        if arch not in made:
            meta = ArtifactMeta(ModelId("rfdetr", f"pico {arch.key}", weights="random"), names, tuple(range(len(names))))
            made[arch] = OrtSession(export_onnx(supernet.slice(arch), folder / f"{arch.key}.onnx", meta=meta))
        return made[arch]

    return session


@pytest.mark.parametrize("mode", PROTOCOLS)
@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.key)
def test_latency(arch: Arch, mode: str, sessions: Callable[[Arch], OrtSession], benchmark: Any) -> None:
    session, protocol = sessions(arch), PROTOCOLS[mode]
    image = example_input(session, None)
    wait = (lambda: time.sleep(protocol.buffer_ms / 1e3)) if mode == "buffered" else None
    found = benchmark.pedantic(
        session.run, args=(image,), setup=wait, rounds=protocol.min_samples, iterations=1, warmup_rounds=protocol.warmup
    )
    assert found.scores.shape == (1, arch.queries) and np.isfinite(found.boxes_xyxy).all()
    if not benchmark.enabled:
        return
    samples_ms = 1e3 * np.array(benchmark.stats.stats.data)
    digest = session.artifact_id.sha256
    latency = summarise(samples_ms, stop_reason="fixed number of rounds", sustained=mode == "sustained", artifact_sha256=digest)
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
    benchmark.extra_info.update(weights="random", record=json.loads(record.to_json()))
