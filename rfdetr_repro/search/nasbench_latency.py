"""The benchmark's latencies from Records of measured engines: those are kept as measured, the
others are modelled by the search's latency model, with its error on engines left out of the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rfdetr_repro.nasbench.latency import Runtime
from rfdetr_repro.nasbench.space import form
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.protocol import Protocol

from .latency_model import LatencyModel, RelativeError, heldout_error

FEWEST = 8
MODE = "sustained"


class EngineFit(NamedTuple):
    """A latency model of measured engines, and its error on engines left out of the fit."""

    engines: dict[Arch, Record]  # that the model was fitted to
    machine: str
    model: LatencyModel
    error: RelativeError


def fit_of_engines(
    records: Iterable[Record], deployment: str, threads: int, mode: str, config: ModelConfig
) -> EngineFit:
    """The latency model of the Records of the source "engine" with this deployment (such as
    "onnxruntime fp32"), number of threads and mode.

    Raises :class:`InputError` for fewer than FEWEST engines, or engines of several machines.
    """
    engines: dict[Arch, Record] = {}
    medians: dict[Arch, float] = {}
    for record in records:
        if (
            record.source == "engine"
            and record.protocol is not None
            and _deployment(record, record.protocol) == deployment
            and (record.protocol.threads, record.protocol.mode) == (threads, mode)
            and record.latency is not None
            and record.model.arch is not None
        ):
            engines[record.model.arch] = record
            medians[record.model.arch] = record.latency.median_ms
    if len(engines) < FEWEST:
        raise InputError(
            f"{len(engines)} measured engines on {deployment}, {threads} threads, {mode}",
            hint=f"give Records of at least {FEWEST}",
        )
    machines = {str(record.machine and record.machine.cpu) for record in engines.values()}
    if len(machines) > 1:
        raise InputError("the engines were measured on different machines", sorted(machines))
    archs, latency_ms = list(medians), list(medians.values())
    model = LatencyModel.fit(archs, latency_ms, config)
    error = heldout_error(archs, latency_ms, config)
    return EngineFit(engines, machines.pop(), model, error)


def _deployment(record: Record, protocol: Protocol) -> str:
    """Runtime and precision of a Record, such as "onnxruntime fp32", without the mode that newer
    searches name behind them.
    """
    return str(record.deployment).removesuffix(f" {protocol.short}")


def latencies_from(
    records: Iterable[Record],
    deployment: str,
    threads: int,
    mode: str,
    archs: Sequence[Arch],
    config: ModelConfig,
) -> Runtime:
    """The latencies of ``archs`` from the engines of :func:`fit_of_engines`."""
    fit = fit_of_engines(records, deployment, threads, mode, config)
    measured: dict[str, tuple[float, float, float]] = {}
    known = {form(arch): arch.key for arch in archs}
    for arch, record in fit.engines.items():
        key = known.get(form(arch))
        latency = record.latency
        if key and latency and latency.ci_low_ms and latency.ci_high_ms:
            measured[key] = (latency.median_ms, latency.ci_low_ms, latency.ci_high_ms)
    first = next(iter(fit.engines.values()))
    about: dict[str, Any] = {
        "deployment": deployment,
        "threads": threads,
        "mode": mode,
        "machine": fit.machine,
        "runtime": first.artifact.options if first.artifact else "unknown",
        "engines": len(fit.engines),
        "records": sorted(record.id for record in fit.engines.values()),
    }
    modelled = tuple(round(fit.model.predict(arch), 4) for arch in archs)
    return Runtime(about, measured, modelled, fit.error.median, fit.error.p95)


def runtimes_in(
    records: Sequence[Record], archs: Sequence[Arch], config: ModelConfig
) -> dict[str, Runtime]:
    """Latencies in a closed loop by name, such as ``onnxruntime-1``, of every deployment in float32
    and number of threads of which the Records hold engines.
    """
    found = sorted(
        {
            (_deployment(one, one.protocol), one.protocol.threads)
            for one in records
            if one.source == "engine" and one.protocol is not None
            if one.protocol.mode == MODE and _deployment(one, one.protocol).endswith(" fp32")
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
