"""A store's intervals computed once more from its raw samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples_bench import FakeSession, fake_artifact

from rfdetr_repro.bench.cells import Row
from rfdetr_repro.bench.command.intervals import main
from rfdetr_repro.bench.confirm import confirm_all
from rfdetr_repro.bench.intervals import recompute
from rfdetr_repro.bench.twin import itself
from rfdetr_repro.records.samples import SET_ASIDE, Series, load_samples, save_samples
from rfdetr_repro.records.statistics import summarise
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.protocol import Protocol

RESULTS = Path(__file__).resolve().parents[2] / "results"
PROTOCOLS = [Protocol(warmup=1, min_samples=64, max_samples=64, buffer_ms=0.0, builds=2)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    artifacts = [fake_artifact(tmp_path, name) for name in "ab"]
    rows = {a.manifest.model.name: Row(a, lambda build, a=a: FakeSession(a)) for a in artifacts}
    store = Store(tmp_path / "s.jsonl")
    confirm_all(rows, PROTOCOLS, store, twin="always")
    for index, record in enumerate(store.read()):  # a double takes no time: the numbers are others
        first, second = (
            Series.of(10 * np.exp(np.random.default_rng((index, part)).normal(0, 0.01, 128)))
            for part in (0, 1)
        )
        digests = [save_samples(tmp_path, series) for series in (first, second)]
        first, second = (load_samples(tmp_path, digest) for digest in digests)
        found = summarise(
            first.ms, stop_reason="x", sustained=False, artifact_sha256=record.artifact.sha256
        )
        again = itself(first, second, digests[1]) if record.latency.itself is not None else None
        store.append(
            replace(record, latency=replace(found, samples_sha256=digests[0], itself=again))
        )
    return store


def changed(store: Store, **latency: object) -> None:
    """The first Record again, with another latency."""
    record = store.read()[0]
    store.append(replace(record, latency=replace(record.latency, **latency)))


def test_what_was_just_measured_is_equal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.word for line in recompute(store.path)] == ["equal", "equal"]
    assert run_main(main, [str(store.path)]) == 0
    out = capsys.readouterr().out
    assert out.count("equal: ") == 2 and "A/A" in out and out.endswith("2 equal\n")
    assert run_main(main, [str(store.path), "--quiet"]) == 0
    assert capsys.readouterr().out == "2 equal\n"


@pytest.mark.parametrize("field", ["median_ms", "ci_low_ms", "ci_high_ms", "num_samples", "itself"])
def test_any_other_number_is_different(
    store: Store, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    latency = next(record.latency for record in store.read() if record.latency.itself is not None)
    record = next(record for record in store.read() if record.latency.itself is not None)
    value = getattr(latency, field)
    other = (
        replace(value, difference=value.difference + 1e-4) if field == "itself" else value * 1.0001
    )
    other = value + 1 if isinstance(value, int) else other
    store.append(replace(record, latency=replace(latency, **{field: other})))
    assert sorted(line.word for line in recompute(store.path)) == ["different", "equal"]
    assert (
        run_main(main, [str(store.path)]) == 1
        and "1 of 2 latencies differ" in capsys.readouterr().err
    )


def test_lost_and_altered_samples(store: Store) -> None:
    first = store.read()[0]
    path = store.path.parent / "samples" / f"{first.latency.samples_sha256}.npz"
    path.write_bytes(path.read_bytes() + b"x")
    assert [line.word for line in recompute(store.path)] == ["lost", "equal"]
    path.unlink()
    lines = recompute(store.path)
    assert lines[0].word == "lost" and "cannot read" in lines[0].text


def test_latencies_without_samples_are_counted(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(store, samples_sha256=None)
    assert run_main(main, [str(store.path)]) == 0
    assert "1 equal" in capsys.readouterr().out


def test_the_method_of_older_versions_is_named(store: Store) -> None:
    latency = store.read()[0].latency
    changed(
        store,
        interval=None,
        ci_low_ms=latency.median_ms * 0.999,
        ci_high_ms=latency.median_ms * 1.001,
        itself=None,
    )
    assert {line.word for line in recompute(store.path)} == {"older method", "equal"}


def test_samples_set_aside_are_no_part_of_it(store: Store) -> None:
    record = store.read()[0]
    ms = np.concatenate([np.full(64, 9.0), np.full(64, 4.0)])
    series = Series.of(ms)._replace(mark=np.repeat([SET_ASIDE, 0], 64))
    digest = save_samples(store.path.parent, series)
    latency = replace(
        record.latency,
        median_ms=4.0,
        ci_low_ms=None,
        ci_high_ms=None,
        num_samples=64,
        samples_sha256=digest,
        itself=None,
    )
    store.append(replace(record, latency=latency))
    assert {line.word for line in recompute(store.path)} == {"equal"}


def test_no_such_store(tmp_path: Path) -> None:
    assert run_main(main, [str(tmp_path / "none.jsonl")]) == 2


@pytest.mark.parametrize("name", ["embedded", "rf100_real", "rivals", "rivals_latency"])
def test_latencies_of_the_repository_follow_from_their_samples(name: str) -> None:
    """These stores have all their raw samples; docs/intervals.md names the others."""
    words = {line.word for line in recompute(RESULTS / f"{name}.jsonl")}
    assert "equal" in words and words <= {"equal", "no samples"}
