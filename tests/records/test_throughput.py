"""Images per second by batch: the number, its interval against simulation, the axis of frontiers,
and quick measurements, which never stand beside full ones.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from samples_record import fixed_record

from rfdetr_repro.records.pareto import METRICS, comparable_groups, confirmed_points, frontier
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.samples import BLOCK, Series
from rfdetr_repro.records.statistics import summarise, throughput_of
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

SUSTAINED = Protocol(mode="sustained", buffer_ms=0.0, threads=1)


def series(rng: np.random.Generator, builds: int = 4, blocks: int = 12, ms: float = 5.0) -> Series:
    """Independent times with a rare slow run, so that mean and median differ."""
    parts = []
    for _ in range(builds):
        times = ms * np.exp(rng.normal(0, 0.05, blocks * BLOCK))
        times[rng.random(len(times)) < 0.05] *= 3
        parts.append(Series.of(times))
    return Series.pooled(parts)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_rate_is_images_over_time(batch: int) -> None:
    found = series(np.random.default_rng(0))
    rate = throughput_of(found, batch)
    assert rate.images_per_s == pytest.approx(1e3 * batch * len(found.ms) / found.ms.sum())
    assert rate.interval is not None
    assert rate.interval.low < rate.images_per_s < rate.interval.high
    latency = summarise(found.ms, stop_reason="", sustained=True, series=found, batch=batch)
    assert latency.images_per_s == rate.images_per_s
    assert (latency.images_per_s_low, latency.images_per_s_high) == tuple(rate.interval)
    assert latency.median_ms == pytest.approx(float(np.median(found.ms))), "of the whole batch"
    buffered = summarise(found.ms, stop_reason="", sustained=False, series=found, batch=batch)
    assert (buffered.images_per_s, buffered.images_per_s_low) == (None, None)


def test_the_interval_holds_the_true_rate() -> None:
    """The true mean of these times is known; 95 % intervals of 200 repetitions hold it mostly."""
    mean = 5.0 * np.exp(0.05**2 / 2) * (1 + 0.05 * 2)
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        interval = throughput_of(series(rng)).interval
        assert interval is not None
        held += interval.low <= 1e3 / mean <= interval.high
    assert held >= 180


def test_too_few_samples_have_no_interval() -> None:
    assert throughput_of(Series.of(np.array([1.0, 2.0]))).interval is None
    assert throughput_of(Series.of(np.full(100, 2.0))).interval is None
    assert throughput_of(Series.of(np.full(100, 2.0))).images_per_s == pytest.approx(500)


def measured(name: str, batch: int, rate: float, ap: float, **further: object) -> Record:
    base = fixed_record()
    protocol = replace(SUSTAINED, batch=batch, **further)
    latency = replace(
        base.latency,
        median_ms=1e3 * batch / rate,
        images_per_s=rate,
        images_per_s_low=rate * 0.99,
        images_per_s_high=rate * 1.01,
    )
    accuracy = replace(base.accuracy, ap=ap, ap_low=None, ap_high=None, resampled=None)
    return replace(
        base,
        model=replace(base.model, name=name),
        protocol=protocol,
        latency=latency,
        accuracy=accuracy,
        mask_accuracy=None,
    )


ROWS = [
    measured("small", 1, 100, 0.30),
    measured("small", 8, 300, 0.30),
    measured("large", 1, 40, 0.45),
    measured("large", 8, 90, 0.45),
]


def test_a_frontier_of_throughput_takes_the_best_batch() -> None:
    found = frontier(ROWS, "throughput", "ap")
    assert [(one.model.name, one.protocol.batch) for one in found] == [("small", 8), ("large", 8)]
    assert len(comparable_groups(ROWS, "throughput")) == 1
    assert not METRICS["throughput"].lower_is_better


def test_a_frontier_of_latency_does_not_mix_batches() -> None:
    assert len(comparable_groups(ROWS, "latency")) == 2
    with pytest.raises(InputError, match="one front cannot mix .*sustained.* batch 8"):
        frontier(ROWS)


def test_quick_measurements_stand_alone() -> None:
    quick = measured("quick", 1, 1000, 0.9, quick=True)
    for axis in ("latency", "throughput"):
        assert len(comparable_groups([ROWS[0], quick], axis)) == 2
        with pytest.raises(InputError, match="quick"):
            frontier([ROWS[0], quick], axis)
    assert confirmed_points([quick]) == []
    assert not quick.protocol.usual and quick.protocol.rhythm == "sustained, quick"
    assert quick.protocol.short.endswith("quick")


def test_records_and_ids() -> None:
    """A protocol without the new fields keeps its settings, and thereby the ids of old Records."""
    old = Protocol(threads=1)
    assert "quick" not in old.settings() and old.settings()["batch"] == 1
    ids = {one.id for one in ROWS} | {measured("small", 1, 100, 0.3, quick=True).id}
    assert len(ids) == len(ROWS) + 1
    again = Record.from_json(ROWS[1].to_json())
    assert again == ROWS[1] and again.latency.images_per_s_high == pytest.approx(303)
    fields = json.loads(ROWS[0].to_json())
    assert "quick" not in fields["protocol"] or fields["protocol"]["quick"] is False


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch": 4, "mode": "paced", "buffer_ms": 0.0, "fps": 30.0}, "arrive one at a time"),
        ({"quick": 1}, "quick = 1 is neither true nor false"),
        ({"batch": 0}, "batch"),
    ],
)
def test_protocols_that_do_not_exist(changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Protocol(**changes)  # type: ignore[arg-type]
