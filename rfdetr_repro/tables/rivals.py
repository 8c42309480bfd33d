"""RF-DETR against rivals that were trained on the same data by the same budget (``train-rival``):
every model with its interval over seeds, and for each rival the RF-DETR at equal latency.

At equal latency means: among the measured architectures of RF-DETR that are not slower than the
rival by more than :data:`TOLERANCE`, the one with the highest mean AP on val. The comparison is
made on test where the data have that split, so that the choice does not favour RF-DETR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from rfdetr_repro.records.data_sets import LEARNED_AP
from rfdetr_repro.records.record import RIVALS, Record
from rfdetr_repro.records.seeds import Seeded, seeded_difference, seeded_mean
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import in_points, milliseconds, percent, percent_value, plural

from .campaign import SYNTHETIC
from .table import COMPUTED, MEASURED, MISSING, Cell, Column, Table

TOLERANCE = 0.05
UNLEARNED = f"no model reaches an AP of {100 * LEARNED_AP:g}"
TOO_COARSE = "the grid of architectures is too coarse (--archs)"
OURS = "rfdetr"
CHOOSING = "val"
DECIDING = "test"

Key = tuple[str, ...]


@dataclass
class Entry:
    """One model of the comparison: the same architecture, trained with several seeds."""

    family: str
    label: str
    arch: str
    ap: dict[str, dict[int, float]] = field(default_factory=dict)  # split -> seed -> AP
    ms: dict[int, float] = field(default_factory=dict)  # seed -> median latency of its file
    weights: dict[int, str | None] = field(default_factory=dict)  # seed -> SHA-256 of the weights
    params: int | None = None

    @property
    def latency(self) -> float:
        """Median over the files of all seeds, ms."""
        return median(self.ms.values())

    def mean(self, split: str) -> Seeded | None:
        """AP on a split over the seeds; None where no AP was measured."""
        found = self.ap.get(split)
        if not found:
            return None
        return seeded_mean([found[seed] for seed in sorted(found)]).within(0, 1)


@dataclass(frozen=True)
class Verdict:
    """A rival and the RF-DETR at equal latency; ``ours`` is None where no measured one is as
    fast.
    """

    rival: Entry
    ours: Entry | None
    split: str
    difference: Seeded | None  # AP of ours - AP of the rival
    # the fastest RF-DETR of those that are too slow and have a higher AP on val than ``ours``: a
    # grid of architectures is coarse, and at exactly the rival's latency RF-DETR lies between both
    slower: Entry | None = None
    slower_difference: Seeded | None = None  # AP of slower - AP of the rival

    @property
    def equally_fast(self) -> bool:
        """Whether the latencies of both differ by :data:`TOLERANCE` at most, so that the next
        slower RF-DETR has no part in the comparison.
        """
        return self.ours is not None and self.ours.latency >= self.rival.latency * (1 - TOLERANCE)

    @property
    def too_coarse(self) -> bool:
        """Whether RF-DETR is faster and less accurate, and the next slower RF-DETR is not shown to
        be less accurate: then an architecture between both could be as accurate at the rival's
        latency.
        """
        if self.equally_fast or self.difference is None or self.slower_difference is None:
            return False
        return self.difference.sign < 0 <= self.slower_difference.sign

    @property
    def unlearned(self) -> bool:
        """Whether both models find next to nothing, so that their difference says nothing."""
        means = [one.mean(self.split) for one in (self.ours, self.rival) if one is not None]
        return all(one is None or one.value < LEARNED_AP for one in means)

    @property
    def undecided(self) -> str:
        """Why the difference decides nothing, whatever its interval; "" where it may decide."""
        if self.unlearned:
            return UNLEARNED
        return TOO_COARSE if self.too_coarse else ""

    @property
    def word(self) -> str:
        """What the comparison shows."""
        if self.ours is None or self.difference is None:
            return "no RF-DETR is as fast"
        if reason := self.undecided or (self.difference.low is None and self.difference.told):
            return f"not decided: {reason}"
        winner = {1: "RF-DETR", -1: self.rival.label}.get(self.difference.sign)
        return f"{winner} is more accurate" if winner else "no difference is shown"


def rivals_tables(records: Sequence[Record]) -> list[Table]:
    """Two tables for every data set, engine, protocol and budget of the comparison: the models, and
    the verdicts.
    """
    tables = []
    for key, found in comparisons(records).items():
        models = entries(found)
        split = deciding_split(models)
        synthetic = any(one.data is not None and one.data.synthetic for one in found)
        notes = [SYNTHETIC] if synthetic else []
        where = ", ".join(filter(None, key))
        tables.append(_models_table(models, where, notes))
        tables.append(_verdicts_table(verdicts(models, split), split, where, notes))
    return tables


def comparisons(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """The Records of rivals trained alike, by data set, engine, machine, protocol and budget."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        if _takes_part(record):
            groups.setdefault(_group(record), []).append(record)
    return groups


def _takes_part(record: Record) -> bool:
    return (
        record.campaign == RIVALS
        and record.source == "protocol"
        and record.seed is not None
        and record.data is not None
        and record.latency is not None
        and record.accuracy is not None
        and record.accuracy.ap is not None
    )


def _group(record: Record) -> Key:
    artifact = record.artifact
    machine = record.machine
    protocol = record.protocol
    return (
        record.data.name if record.data else "",
        f"{artifact.runtime} {artifact.precision}" if artifact else "",
        f"{machine.gpu or machine.cpu}, {plural(protocol.threads, 'thread')}"
        if machine and protocol
        else "",
        protocol.rhythm if protocol else "",
        record.budget.words if record.budget else "",
    )


def entries(records: Sequence[Record]) -> list[Entry]:
    """The models of one of :func:`comparisons`, the fastest first. Raises :class:`InputError` for
    two trainings of one model with one seed, because their budgets may differ.
    """
    found: dict[Key, Entry] = {}
    for record in records:
        model = record.model
        arch = model.arch.key if model.arch else ""
        label = " ".join(filter(None, (model.name, model.size)))
        key = (model.family, model.name, model.size or "", arch)
        entry = found.setdefault(key, Entry(model.family, label, arch))
        if record.seed is None or record.data is None:
            continue
        weights = entry.weights.setdefault(record.seed, model.checkpoint_sha256)
        if weights != model.checkpoint_sha256:
            raise InputError(
                f"the Records hold two trainings of {label} on {record.data.name} with seed "
                f"{record.seed}",
                hint="name the Records of one comparison (--records)",
            )
        if record.accuracy is not None and record.accuracy.ap is not None:
            entry.ap.setdefault(record.data.split, {})[record.seed] = record.accuracy.ap
        if record.latency is not None:
            entry.ms[record.seed] = record.latency.median_ms
        entry.params = record.cost.params if record.cost else None
    return sorted(found.values(), key=lambda one: one.latency)


def deciding_split(models: Sequence[Entry]) -> str:
    """The split on which the comparison is made: test, or val where the data have no test."""
    return DECIDING if any(DECIDING in one.ap for one in models) else CHOOSING


def verdicts(models: Sequence[Entry], split: str, tolerance: float = TOLERANCE) -> list[Verdict]:
    """For each rival of ``models`` the RF-DETR at equal latency, and the difference of AP on
    ``split``. ``tolerance``: by which part of the rival's latency RF-DETR may be slower.
    """
    ours = [one for one in models if one.family == OURS]
    found = []
    for rival in (one for one in models if one.family != OURS):
        fast = [one for one in ours if one.latency <= (1 + tolerance) * rival.latency]
        best = max(fast, key=_choosing_ap, default=None)
        reached = -1.0 if best is None else _choosing_ap(best)
        better = [one for one in ours if one not in fast and _choosing_ap(one) > reached]
        slower = min(better, key=lambda one: one.latency, default=None)
        found.append(
            Verdict(
                rival,
                best,
                split,
                _difference(best, rival, split),
                slower,
                _difference(slower, rival, split),
            )
        )
    return found


def _difference(ours: Entry | None, rival: Entry, split: str) -> Seeded | None:
    if ours is None or split not in ours.ap or split not in rival.ap:
        return None
    return seeded_difference(list(ours.ap[split].values()), list(rival.ap[split].values()))


def _choosing_ap(entry: Entry) -> float:
    chosen = entry.mean(CHOOSING) or entry.mean(DECIDING)
    return -1.0 if chosen is None else chosen.value


def _models_table(models: Sequence[Entry], where: str, notes: Sequence[str]) -> Table:
    columns = [
        Column("model", "model", right=False),
        Column("arch", "architecture", right=False, rank=2),
        Column("seeds", "seeds"),
        Column("ms", "ms"),
        Column("spread", "ms of the seeds", right=False, rank=3),
        *(
            Column(f"{split}_{kind}", label, split, rank=rank)
            for split, first in ((CHOOSING, 1), (DECIDING, 0))
            for kind, label, rank in (("ap", "AP", first), ("ci", "95% CI", first))
        ),
        Column("params", "Params M", rank=4),
    ]
    table = Table("rivals", f"Trained alike on {where}", columns)
    for entry in models:
        row = {
            "model": Cell(entry.label),
            "arch": Cell(entry.arch),
            "seeds": Cell(str(len(entry.ms)), value=len(entry.ms)),
            "ms": Cell(milliseconds(entry.latency), MEASURED, entry.latency),
            "spread": Cell(_span(entry)),
        }
        for split in (CHOOSING, DECIDING):
            row |= _ap_cells(split, entry.mean(split))
        if entry.params is not None:
            row["params"] = Cell(f"{entry.params / 1e6:.2f}", value=entry.params / 1e6)
        table.add(row)
    table.notes = [
        *notes,
        "Every model was trained on the same images in the same order by the same number of steps "
        "per seed. AP: mean over the seeds, in percent; 95% CI: of this mean over other seeds on "
        "the same images.",
    ]
    return table


def _span(entry: Entry) -> str:
    low = min(entry.ms.values())
    high = max(entry.ms.values())
    return f"{milliseconds(low)} to {milliseconds(high)}"


def _ap_cells(split: str, mean: Seeded | None) -> dict[str, Cell]:
    if mean is None:
        return {f"{split}_ap": Cell(state=MISSING), f"{split}_ci": Cell(state=MISSING)}
    ap = percent_value(mean.value)
    cells = {f"{split}_ap": Cell(percent(mean.value), MEASURED, ap)}
    if mean.low is None or mean.high is None:
        cells[f"{split}_ci"] = Cell(mean.told)
        return cells
    low, high = max(0.0, mean.low), min(1.0, mean.high)
    text = f"[{percent(low)}, {percent(high)}]"
    cells[f"{split}_ci"] = Cell(text, MEASURED, low=percent_value(low), high=percent_value(high))
    return cells


def _verdicts_table(
    found: Sequence[Verdict], split: str, where: str, notes: Sequence[str]
) -> Table:
    columns = [
        Column("rival", "rival", right=False),
        Column("rival_ms", "ms", "rival", rank=1),
        Column("rival_ap", "AP", "rival", rank=2),
        Column("arch", "architecture", "RF-DETR", right=False, rank=4),
        Column("our_ms", "ms", "RF-DETR", rank=1),
        Column("our_ap", "AP", "RF-DETR", rank=2),
        Column("difference", "points", "difference"),
        Column("ci", "95% CI", "difference"),
        Column("slower_arch", "architecture", "next slower RF-DETR", right=False, rank=6),
        Column("slower_ms", "ms", "next slower RF-DETR", rank=3),
        Column("slower_difference", "points", "next slower RF-DETR", rank=3),
        Column("verdict", "verdict", right=False),
    ]
    table = Table("rivals", f"At equal latency on {where}, AP on {split}", columns)
    for one in found:
        row = {
            "rival": Cell(one.rival.label),
            "rival_ms": Cell(milliseconds(one.rival.latency), MEASURED, one.rival.latency),
            "rival_ap": _ap_cells(split, one.rival.mean(split))[f"{split}_ap"],
            "verdict": Cell(one.word),
        }
        if one.ours is not None:
            row["arch"] = Cell(one.ours.arch)
            row["our_ms"] = Cell(milliseconds(one.ours.latency), MEASURED, one.ours.latency)
            row["our_ap"] = _ap_cells(split, one.ours.mean(split))[f"{split}_ap"]
        row |= _difference_cells(one.difference)
        if one.slower is not None and one.slower_difference is not None:
            points = one.slower_difference.value
            row["slower_arch"] = Cell(one.slower.arch)
            row["slower_ms"] = Cell(milliseconds(one.slower.latency), MEASURED, one.slower.latency)
            row["slower_difference"] = Cell(in_points(points), COMPUTED, percent_value(points))
        table.add(row)
    chosen = (
        f"chosen by its mean AP on {CHOOSING}"
        if split != CHOOSING
        else f"chosen on the same images that decide, because the data have no {DECIDING} split: "
        f"the choice favours RF-DETR"
    )
    table.notes = [
        *notes,
        f"RF-DETR: of the measured architectures that are at most {100 * TOLERANCE:.0f} % slower "
        f"than the rival, {chosen}. difference: RF-DETR - rival.",
        "next slower RF-DETR: the fastest of the slower architectures that has a higher AP on "
        f"{CHOOSING}; points: this architecture - rival. At exactly the rival's latency RF-DETR "
        "lies between both architectures. Where RF-DETR is less accurate and more than "
        f"{100 * TOLERANCE:.0f} % faster, and the next slower RF-DETR is not less accurate, the "
        "measured architectures (--archs) are too few to decide.",
        "95% CI: Welch's, over other seeds; each interval holds for itself. Another data set, "
        "budget or recipe may give another answer.",
    ]
    return table


def _difference_cells(found: Seeded | None) -> dict[str, Cell]:
    if found is None:
        return {}
    points = percent_value(found.value)
    cells = {"difference": Cell(in_points(found.value), COMPUTED, points)}
    if found.low is None or found.high is None:
        cells["ci"] = Cell("none")
        return cells
    cells["ci"] = Cell(
        f"{in_points(found.low)} to {in_points(found.high)}",
        COMPUTED,
        low=percent_value(found.low),
        high=percent_value(found.high),
    )
    return cells
