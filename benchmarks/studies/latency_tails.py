"""The tails behind claim 9: how far the slowest passes lie above the median with a wait of 200 ms
and without, and what share of a camera's frames would be missed (a table of docs/claims.md).

    python -m benchmarks.studies.latency_tails [--records results/embedded.jsonl]

Reads Records and the raw samples beside their store; nothing is measured. Each file counts once per
protocol. A frame is missed where a pass takes longer than the time between two frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rfdetr_repro.records.samples import load_samples
from rfdetr_repro.records.seeds import seeded_mean
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError, run_main

MODES = {"buffered": "a wait of 200 ms", "sustained": "a closed loop"}
QUANTILES = (0.9, 0.95, 0.99)
FRAME_RATES = (30, 60)


class Tail(NamedTuple):
    """The samples of one file under one protocol."""

    samples: int
    median_ms: float
    over: tuple[float, ...]  # QUANTILES and the maximum, in % above the median
    missed: tuple[float, ...]  # share of the passes, for each of FRAME_RATES


def tail_of(ms: np.ndarray) -> Tail:
    """The tail of samples in ms, float (n,); quantiles interpolate between samples."""
    median = float(np.median(ms))
    high = (*np.quantile(ms, QUANTILES).tolist(), float(ms.max()))
    return Tail(
        len(ms),
        median,
        tuple(100 * (value / median - 1) for value in high),
        tuple(float((ms > 1000 / rate).mean()) for rate in FRAME_RATES),
    )


def tails(path: Path) -> dict[str, dict[str, Tail]]:
    """SHA-256 of a file -> protocol -> tail, of the files that have samples under both."""
    found: dict[str, dict[str, Tail]] = {}
    for record in Store(path).read():
        latency = record.latency
        if (
            record.source != "protocol"
            or record.artifact is None
            or record.protocol is None
            or record.protocol.mode not in MODES
            or latency is None
            or latency.samples_sha256 is None
        ):
            continue
        series = load_samples(path.parent, latency.samples_sha256).counted
        found.setdefault(record.artifact.sha256, {})[record.protocol.mode] = tail_of(series.ms)
    return {name: modes for name, modes in found.items() if len(modes) == len(MODES)}


def table(found: dict[str, dict[str, Tail]]) -> list[str]:
    """Lines to print: the mean over the files for each protocol, and the paired difference with
    Student's interval over the files.
    """
    names = [*(f"p{100 * quantile:g}" for quantile in QUANTILES), "largest"]
    lines = [f"{len(found)} files; % above the median, mean over the files"]
    for mode, words in MODES.items():
        samples = sorted({modes[mode].samples for modes in found.values()})
        means = np.mean([modes[mode].over for modes in found.values()], axis=0)
        row = "  ".join(f"{name} {value:.1f}" for name, value in zip(names, means, strict=True))
        lines.append(f"{words}, {samples[0]} to {samples[-1]} samples: {row}")
    for index, name in enumerate(names[: len(QUANTILES)]):
        gaps = [
            modes["buffered"].over[index] - modes["sustained"].over[index]
            for modes in found.values()
        ]
        mean = seeded_mean(gaps)
        interval = mean.told or f"[{mean.low:+.1f}, {mean.high:+.1f}]"
        lines.append(f"{name}, with the wait against without: {mean.value:+.1f} {interval}")
    for index, rate in enumerate(FRAME_RATES):
        for name, modes in found.items():
            shares = {words: modes[mode].missed[index] for mode, words in MODES.items()}
            if any(shares.values()):
                told = ", ".join(
                    f"{100 * share:.1f} % with {words}" for words, share in shares.items()
                )
                lines.append(f"missed at {rate} frames per second by {name[:8]}: {told}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("benchmarks.studies.latency_tails", description=__doc__)
    parser.add_argument("--records", type=Path, default=Path("results/embedded.jsonl"))
    path = parser.parse_args(argv).records
    found = tails(path)
    if not found:
        raise InputError(
            "no file has samples under both protocols", path, "give results/embedded.jsonl"
        )
    print("\n".join(table(found)))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
