"""The projection of a search's cost adds up from its parts, and refuses to guess a missing one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.search_parts import (
    CAMPAIGN,
    DECIDING,
    DECODING,
    EXPORTING,
    PASSES,
    PASSING,
    RESIZING,
    SCORING,
    SIDES,
    Part,
    interval,
    measured,
    parts,
)
from benchmarks.studies.search_projection import (
    Assumed,
    main,
    page,
    parts_of,
    record_of,
    rows_of,
)
from rfdetr_repro.records.record import Latency, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError

ASSUMED = Assumed(build_s=300, engines=10, candidates=4, builds=2, file_ms=8, race_passes=0.5)


def timed(**changed: float) -> list[Record]:
    names = [
        *(DECODING, SCORING, DECIDING, EXPORTING),
        *(RESIZING.format(side=side) for side in SIDES),
        *(PASSING.format(which=which) for which in PASSES),
    ]
    return [
        Record(
            "cost",
            ModelId("rfdetr", "supernet", variant=name, weights="random"),
            latency=Latency(changed.get(name, 1.0), num_samples=6),
            campaign=CAMPAIGN,
        )
        for name in names
    ]


def hours(records: list[Record]) -> dict[str, float]:
    return {row.name.strip("*"): row.hours or 0.0 for row in rows_of(parts_of(records), ASSUMED)}


def test_the_whole_is_the_sum_of_its_parts() -> None:
    found = hours(timed())
    own = [
        "passes, 5,000 images",
        "decoding of the pictures",
        "resizing of the pictures",
        "COCO evaluation of all configurations",
        "latency model",
        "confirmation",
    ]
    assert found["whole search, exhaustive"] == pytest.approx(sum(found[name] for name in own))
    halved = sum(found[own[index]] for index in (0, 2, 3)) / 2
    assert found["whole search, race"] == pytest.approx(
        found["whole search, exhaustive"] - halved + found["decisions of a race"]
    )
    # by hand: 6,188 configurations x 5,000 images at 1 ms for 500; 5,000 pictures at 1 ms
    assert found["COCO evaluation of all configurations"] == pytest.approx(6188 * 10e-3 / 3600)
    assert found["decoding of the pictures"] == pytest.approx(5 / 3600)
    assert found["resizing of the pictures"] == pytest.approx(221 * 5 / 3600)
    # equal times up to the ninth decile, and longer ones for the 23 backbones beyond
    here = found["passes on this machine instead, one thread"]
    assert 221 * 5 / 3600 < here < 10 * 221 * 5 / 3600
    dearer = hours(timed(**{SCORING: 2.0}))
    name = "COCO evaluation of all configurations"
    assert dearer[name] == pytest.approx(2 * found[name])


def test_a_missing_part_is_named_and_not_guessed() -> None:
    records = [one for one in timed() if one.model.variant != DECIDING]
    with pytest.raises(InputError, match="no time of resampled AP"):
        parts_of(records)
    given = parts_of(records, {DECIDING: 3.0, DECODING: 9.0})
    assert given[DECIDING].median_ms == 3.0 and given[DECODING].median_ms == 1.0
    without = [one for one in timed() if "shared pass" not in one.model.variant]
    assert "passes on this machine instead, one thread" not in hours(without)


def test_rows_become_records_and_a_page() -> None:
    records = timed()
    rows = rows_of(parts_of(records), ASSUMED)
    kept = [record_of(row, "projection") for row in rows if row.hours is not None]
    assert all(one.latency.method == "modelled" for one in kept)
    assert len({one.id for one in [*records, *kept]}) == len(records) + len(kept)
    text = page(rows, records, ASSUMED)
    assert text.count("assumed") >= 4 and "10,000" in text


def test_a_projection_replaces_its_own_rows_and_nothing_else(tmp_path: Path) -> None:
    other = Record("cost", ModelId("rfdetr", "another"), campaign="another")
    store = Store(tmp_path / "records.jsonl")
    store.extend([other, *(one for one in timed() if one.model.variant != SCORING)])
    out = tmp_path / "page.md"
    words = ["--records", str(store.path), "--out", str(out), "--given", f"{SCORING}=250"]
    main(words)
    once = store.read()
    assert once[0] == other and len(once) > 10
    main([*words, "--build-seconds", "100"])
    assert [one.id for one in store.read()] == [one.id for one in once]
    assert f"--given '{SCORING}=250'" in out.read_text()


def test_the_page_and_the_records_of_the_repository_are_the_present_projection(
    tmp_path: Path,
) -> None:
    root = Path(__file__).resolve().parents[2]
    stored = root / "results/search_cost.jsonl"
    copy, out = tmp_path / "search_cost.jsonl", tmp_path / "page.md"
    copy.write_bytes(stored.read_bytes())
    main(["--records", str(copy), "--out", str(out)])
    assert out.read_text(encoding="utf-8") == (root / "docs/search_cost.md").read_text("utf-8"), (
        "run: python -m benchmarks.studies.search_projection --records results/search_cost.jsonl "
        "--out docs/search_cost.md"
    )
    before, after = (
        {one.id: one.latency.median_ms for one in Store(path).read() if one.latency}
        for path in (stored, copy)
    )
    assert after == pytest.approx(before, rel=1e-9)


def test_the_interval_of_a_median_is_exact() -> None:
    """By simulation: 15 samples of any distribution hold their median in 95 % or a little more."""
    assert interval([1.0] * 5) == (None, None)
    assert interval([1, 2, 3, 4, 5, 6]) == (1, 6)
    rng = np.random.default_rng(0)
    draws = np.sort(rng.exponential(size=(4000, 15)), axis=1)
    low, high = zip(*(interval(row) for row in draws), strict=True)
    held = np.mean((np.array(low) <= np.log(2)) & (np.log(2) <= np.array(high)))
    assert 0.945 <= held <= 0.975


def test_a_part_is_timed() -> None:
    record = measured(Part("half a million numbers", lambda: _sum, 7), "test")
    latency = record.as_latency().latency
    assert latency.ci_low_ms <= latency.median_ms <= latency.ci_high_ms
    assert latency.num_samples == 7 and record.deployment == "CPU time of one thread"
    cheap = {part.name: part for part in parts()}
    assert cheap[DECODING].make()().shape == (480, 640, 3)
    assert cheap[RESIZING.format(side=320)].make()().shape == (1, 3, 320, 320)


def _sum() -> float:
    return float(np.sqrt(np.arange(500_000.0)).sum())
