"""The benchmark's latencies from Records of measured engines: those are kept as measured, the
others are modelled by the search's latency model, with its error on engines left out of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfdetr_repro.nasbench.latency import Runtime
from rfdetr_repro.nasbench.space import form
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig

from .latency_model import LatencyModel, heldout_error

FEWEST = 8
MODE = "sustained"


def latencies_from(
    records: Sequence[Record],
    deployment: str,
    threads: int,
    mode: str,
    archs: Sequence[Arch],
    config: ModelConfig,
) -> Runtime:
    """The latencies of ``archs`` from the Records of the source "engine" with this deployment (such
    as "onnxruntime fp32"), number of threads and mode.

    Raises :class:`InputError` for fewer than FEWEST engines, or engines of several machines.
    """
    engines = {
        one.model.arch: one
        for one in records
        if one.source == "engine"
        and one.deployment == deployment
        and one.protocol is not None
        and (one.protocol.threads, one.protocol.mode) == (threads, mode)
        and one.latency is not None
        and one.model.arch is not None
    }
    if len(engines) < FEWEST:
        raise InputError(
            f"{len(engines)} measured engines on {deployment}, {threads} threads, {mode}",
            hint=f"give Records of at least {FEWEST}",
        )
    machines = {str(one.machine and one.machine.cpu) for one in engines.values()}
    if len(machines) > 1:
        raise InputError("the engines were measured on different machines", sorted(machines))
    measured: dict[str, tuple[float, float, float]] = {}
    known = {form(arch): arch.key for arch in archs}
    for arch, one in engines.items():
        key = known.get(form(arch))
        latency = one.latency
        if key and latency and latency.ci_low_ms and latency.ci_high_ms:
            measured[key] = (latency.median_ms, latency.ci_low_ms, latency.ci_high_ms)
    medians = [one.latency.median_ms for one in engines.values() if one.latency]
    model = LatencyModel.fit(list(engines), medians, config)
    error = heldout_error(list(engines), medians, config)
    first = next(iter(engines.values()))
    about: dict[str, Any] = {
        "deployment": deployment,
        "threads": threads,
        "mode": mode,
        "machine": machines.pop(),
        "runtime": first.artifact.options if first.artifact else "unknown",
        "engines": len(engines),
        "records": sorted(one.id for one in engines.values()),
    }
    modelled = tuple(round(model.predict(arch), 4) for arch in archs)
    return Runtime(about, measured, modelled, error.median, error.p95)


def runtimes_in(
    records: Sequence[Record], archs: Sequence[Arch], config: ModelConfig
) -> dict[str, Runtime]:
    """Latencies in a closed loop by name, such as ``onnxruntime-1``, of every deployment in float32
    and number of threads of which the Records hold engines.
    """
    found = sorted(
        {
            (str(one.deployment), one.protocol.threads)
            for one in records
            if one.source == "engine" and one.protocol is not None
            if one.protocol.mode == MODE and str(one.deployment).endswith(" fp32")
        }
    )
    if not found:
        raise InputError(f"these Records hold no {MODE} latencies of engines in float32")
    return {
        f"{deployment.split()[0]}-{threads}": latencies_from(
            records, deployment, threads, MODE, archs, config
        )
        for deployment, threads in found
    }
