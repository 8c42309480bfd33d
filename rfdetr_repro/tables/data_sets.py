"""Many data sets, each with a search of its own (``rf100``): one row per data set, the means of the
paired differences, and the regressions of what the data hold on the found knobs, beside version 2's
Table 17.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.paper.published import published_table
from rfdetr_repro.records.data_sets import (
    FOUND,
    VARIANTS,
    Regression,
    SetResult,
    gains_of,
    mean_over_sets,
    regressions,
    results_of,
)
from rfdetr_repro.records.record import FIXED, TUNED, Record
from rfdetr_repro.records.seeds import Seeded
from rfdetr_repro.spec.metrics import decimals, milliseconds, percent, percent_value, plural

from .campaign import SYNTHETIC
from .table import COMPUTED, MEASURED, MISSING, PUBLISHED, Cell, Column, Table, percent_cell

_WORDS = {FIXED: "fixed", FOUND: "found", TUNED: "fine-tuned"}
GAINS = (
    (FIXED, FOUND, "found for each data set, against the fixed architecture"),
    (FOUND, TUNED, "found and fine-tuned, against found"),
    (FIXED, TUNED, "found and fine-tuned, against the fixed architecture"),
)
_ABSENT = Cell(state=MISSING)


def data_sets_tables(records: Sequence[Record]) -> list[Table]:
    """Per data set, means, and regressions, of real and of composed data sets apart; empty without
    Records of ``rf100``.
    """
    tables = []
    results = results_of(records)
    for composed in (False, True):
        group = [one for one in results if one.composed == composed]
        if group:
            notes = [SYNTHETIC] if composed else []
            tables += [_rows(group, notes), _means(group, notes), _regressions(group, notes)]
    return tables


def _rows(results: Sequence[SetResult], notes: Sequence[str]) -> Table:
    columns = [
        Column("data", "data set", right=False),
        Column("images", "images", "train split", rank=4),
        Column("classes", "classes", "train split", rank=3),
        Column("objects", "objects/image", "train split", rank=3),
        Column("area", "mean area", "train split", rank=3),
        Column("arch", "found architecture", right=False, rank=1),
        *(Column(f"{variant}_ms", _WORDS[variant], "ms", rank=2) for variant in VARIANTS),
        *(Column(f"{variant}_ap", _WORDS[variant], "AP on test") for variant in VARIANTS),
        Column("gain", "found - fixed", "points"),
        Column("tuned", "tuned - found", "points"),
    ]
    table = Table("rf100", "Each data set with a search of its own", columns)
    for one in results:
        facts = one.facts
        arch = one.arch(FOUND)
        row = {
            "data": Cell(one.name),
            "images": Cell(f"{facts.images:,}", value=facts.images),
            "classes": Cell(str(facts.classes), value=facts.classes),
            "objects": Cell(decimals(facts.objects_per_image, 1), value=facts.objects_per_image),
            "area": Cell(
                f"{percent(facts.mean_object_area)}%", value=percent_value(facts.mean_object_area)
            ),
            "arch": Cell("" if arch is None else arch.key),
        }
        for variant in VARIANTS:
            ms = one.ms(variant)
            row[f"{variant}_ms"] = _ABSENT if ms is None else Cell(milliseconds(ms), MEASURED, ms)
            row[f"{variant}_ap"] = percent_cell(one.ap(variant), _ABSENT)
        for key, first, second in (("gain", FIXED, FOUND), ("tuned", FOUND, TUNED)):
            gain = one.gain(first, second)
            row[key] = (
                _ABSENT if gain is None else Cell(decimals(gain, 1, signed=True), MEASURED, gain)
            )
        table.add(row)
    fixed = sorted({arch.key for one in results if (arch := one.arch(FIXED)) is not None})
    table.notes = [
        *notes,
        f"Fixed architecture: {', '.join(fixed)}. The fixed and the found architecture of a data "
        f"set are taken from one supernet, and their latencies were measured in turns. Mean area: "
        f"of an object, as a fraction of its image.",
    ]
    return table


def _means(results: Sequence[SetResult], notes: Sequence[str]) -> Table:
    columns = [
        Column("what", "mean over the data sets", right=False, wraps=True),
        Column("sets", "data sets"),
        Column("value", "AP or points"),
        Column("ci", "95% CI"),
        Column("signs", "higher, equal, lower", right=False),
    ]
    table = Table("rf100", "Means over the data sets, AP on test", columns)
    for variant in VARIANTS:
        known = [ap for one in results if (ap := one.ap(variant)) is not None]
        if known:
            mean = mean_over_sets([100 * ap for ap in known]).within(0, 100)
            table.add(_mean_row(f"{_WORDS[variant]}: AP", mean, len(known), signed=False))
    for first, second, words in GAINS:
        gains = gains_of(results, first, second)
        if not gains:
            continue
        row = _mean_row(words, mean_over_sets(gains), len(gains), signed=True)
        signs = [sum(g > 0 for g in gains), sum(g == 0 for g in gains), sum(g < 0 for g in gains)]
        row["signs"] = Cell(", ".join(map(str, signs)))
        table.add(row)
    table.notes = [
        *notes,
        "95% CI: Student's, over other data sets of the same kinds, with one training of each.",
    ]
    return table


def _mean_row(words: str, mean: Seeded, sets: int, *, signed: bool) -> dict[str, Cell]:
    row = {
        "what": Cell(words),
        "sets": Cell(str(sets), value=sets),
        "value": Cell(decimals(mean.value, 1, signed=signed), COMPUTED, mean.value),
    }
    if mean.low is None or mean.high is None:
        row["ci"] = Cell(mean.told)
        return row
    text = f"[{decimals(mean.low, 1, signed=signed)}, {decimals(mean.high, 1, signed=signed)}]"
    row["ci"] = Cell(text, COMPUTED, low=mean.low, high=mean.high)
    return row


def _regressions(results: Sequence[SetResult], notes: Sequence[str]) -> Table:
    columns = [
        Column("relation", "relationship", right=False, wraps=True),
        Column("slope", "slope", "here"),
        Column("ci", "95% CI", "here", rank=1),
        Column("intercept", "intercept", "here", rank=3),
        Column("r2", "R2", "here"),
        Column("p", "p", "here"),
        Column("error", "std. error", "here", rank=3),
        Column("their_slope", "slope", "published", rank=2),
        Column("their_r2", "R2", "published", rank=2),
        Column("their_p", "p", "published", rank=2),
    ]
    table = Table(
        "rf100",
        f"Found knobs and {plural(len(results), 'data set')} (version 2, Table 17)",
        columns,
    )
    printed = {row["relationship"]: row for row in published_table("v2_17").rows}
    for line in regressions(results):
        table.add(_line_row(line, printed.get(f"{line.statistic} vs {line.knob}", {})))
    table.notes = [
        *notes,
        "Least squares of the first quantity on the second, one point per data set. The paper "
        "defines neither spatial locations nor size; here they are the patches along a side, and "
        "the mean area of an object as a fraction of its image. Eight lines are eight tests, so "
        "only p below 0.05 / 8 = 0.006 is beyond chance.",
    ]
    return table


def _line_row(line: Regression, printed: dict[str, str]) -> dict[str, Cell]:
    row = {"relation": Cell(f"{line.statistic} vs {line.knob}")}
    for key, name in (("their_slope", "slope"), ("their_r2", "r_squared"), ("their_p", "p_value")):
        if text := printed.get(name, ""):
            row[key] = Cell(text, PUBLISHED, float(text))
    if line.slope is None or line.low is None or line.high is None:
        row["slope"] = Cell(line.told)
        return row
    row["slope"] = _computed(line.slope)
    row["ci"] = Cell(
        f"[{_short(line.low)}, {_short(line.high)}]", COMPUTED, low=line.low, high=line.high
    )
    for key, value in (
        ("intercept", line.intercept),
        ("r2", line.r_squared),
        ("p", line.p_value),
        ("error", line.std_error),
    ):
        if value is not None:
            row[key] = _computed(value)
    return row


def _computed(value: float) -> Cell:
    return Cell(_short(value), COMPUTED, value)


def _short(value: float) -> str:
    return f"{value:.3g}"
