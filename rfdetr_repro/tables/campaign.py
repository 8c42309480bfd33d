"""A campaign's own tables: every confirmed frontier point with val and test accuracy and latency of
the same file.

There is one table per data set, runtime with its precision and threads, and machine, so that
backends are never mixed. For composed data the title states that the AP is synthetic.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps
from rfdetr_repro.records.model_check import (
    ModelCheck,
    bound_text,
    error_is_unknown,
    model_checks,
    too_coarse,
)
from rfdetr_repro.records.pareto import (
    Confirmed,
    annotation_digest,
    backend,
    confirmed_points,
    decision_mode,
    frontiers,
    measured_front,
    metric,
    threads_of,
)
from rfdetr_repro.records.record import NEVER_TRAINED, TUNED, Accuracy, Latency, Record
from rfdetr_repro.spec.metrics import decimals, in_points, milliseconds, percent_value, plural

from .intervals import change_interval_cell, gain_cell, interval_cell, interval_notes
from .table import MEASURED, MISSING, Cell, Column, Table, percent_cell

SYNTHETIC = (
    "This AP was measured on composed (synthetic) images; it is not COCO AP and must not be "
    "compared with COCO AP."
)

UNKNOWN_SUPERNET = "unknown"

# the ranks say what is left out first where a terminal is too narrow: the highest
_COLUMNS = [
    Column("front", "front", right=False),
    Column("arch", "architecture", right=False),
    Column("val_ap", "AP", "val"),
    Column("val_ci", "95% CI", "val", rank=2),
    Column("gain", "gain", "val", rank=4),
    Column("val_ap50", "AP50", "val", rank=8),
    Column("val_mask_ap", "mask AP", "val", rank=5),
    Column("val_mask_ci", "95% CI", "val", rank=12),
    Column("test_ap", "AP", "test", rank=1),
    Column("test_ci", "95% CI", "test", rank=7),
    Column("test_ap50", "AP50", "test", rank=11),
    Column("test_mask_ap", "mask AP", "test", rank=13),
    Column("test_mask_ci", "95% CI", "test", rank=14),
    Column("buffered_ms", "buffered ms", "latency"),
    Column("buffered_ci", "95% CI", "latency", rank=6),
    Column("modelled_ms", "modelled ms", "latency", rank=10),
    Column("sustained_ms", "sustained ms", "latency", rank=3),
    Column("images_per_s", "images/s", "latency", rank=9),
    Column("params", "Params M", "file", rank=15),
    Column("size", "MB", "file", rank=16),
    Column("sha256", "SHA-256", "file", right=False, rank=17),
]


def campaign_tables(records: Sequence[Record]) -> list[Table]:
    """The frontier tables, followed by a table of the gain by fine-tuning where Records before and
    after exist.
    """
    return frontier_tables(records) + finetuning_tables(records)


def frontier_tables(records: Sequence[Record]) -> list[Table]:
    """The confirmed frontier of every (data, runtime, machine), or the search's modelled frontier,
    titled as such.

    Two supernets are two tables. Models that no search found stand beside those of the only
    supernet in a section of their own, with a front of their own: no front holds models of a
    supernet and others.
    """
    groups: dict[tuple[str, str, str | None], list[Confirmed]] = {}
    measured = [record for record in records if record.source == "protocol"]
    for point in confirmed_points(measured):
        key = (_images(point, measured), _engine(point.any), _checkpoint(point.any))
        groups.setdefault(key, []).append(point)
    groups, checks = _joined(groups), model_checks(records)
    several = [key[:2] for key in groups]
    tables = []
    for (name, engine, checkpoint), points in groups.items():
        text = (
            f"checkpoint {checkpoint[:8]}, "
            if checkpoint and several.count((name, engine)) > 1
            else ""
        )
        table = _confirmed_table(points, name, text + engine, checks)
        confirmed = [
            record
            for point in points
            for record in (point.on("val"), point.on("test"))
            if record is not None
        ]
        table.notes += filter(None, [describe_gaps(ap_gaps([*_search(records), *confirmed]))])
        table.notes += latency_notes(points)
        table.facts = {"data": name, "engine": engine, "checkpoint": checkpoint or ""}
        tables.append(table)
    return tables or _modelled_tables(records)


def _images(point: Confirmed, measured: Sequence[Record]) -> str:
    """The data set of a point, with the digest of its annotations where two of the ``measured``
    sets have its name.
    """
    holder = next((one for one in (point.on("val"), point.on("test")) if one), point.any)
    if holder.data is None:
        return "unknown data"
    alike = {
        annotation_digest(record)
        for record in measured
        if record.data is not None
        and (record.data.name, record.data.split) == (holder.data.name, holder.data.split)
    }
    digest = f", annotations {annotation_digest(holder) or 'unknown'}" if len(alike) > 1 else ""
    return holder.data.name + digest


def _modelled_tables(records: Sequence[Record]) -> list[Table]:
    """The modelled frontier of each checkpoint, because two searches do not share a frontier."""
    found: dict[str | None, list[Record]] = {}
    for record in _search(records):
        found.setdefault(_checkpoint(record), []).append(record)
    tables = []
    for checkpoint, own in found.items():
        text = f"checkpoint {checkpoint[:8]}, " if checkpoint and len(found) > 1 else ""
        for (how, images), front in frontiers(own).items():
            table = _modelled_table(front, text + how, images)
            table.facts = {"data": images, "engine": how, "checkpoint": checkpoint or ""}
            tables.append(table)
    return tables


def _checkpoint(record: Record) -> str | None:
    """The supernet of a searched model, "unknown" where its Record does not say; None for any other
    model.
    """
    if record.model.arch is None:
        return None
    return record.model.checkpoint_sha256 or UNKNOWN_SUPERNET


def _joined(
    groups: dict[tuple[str, str, str | None], list[Confirmed]],
) -> dict[tuple[str, str, str | None], list[Confirmed]]:
    """Adds the models of other families to the table of the only supernet; with several supernets
    they have a separate table.
    """
    joined = dict(groups)
    for name, engine, checkpoint in groups:
        others = [key for key in groups if key[:2] == (name, engine) and key[2] is not None]
        if checkpoint is None and len(others) == 1:
            joined[others[0]] = joined[others[0]] + joined.pop((name, engine, None))
    return joined


def latency_notes(points: Sequence[Confirmed]) -> list[str]:
    """Notes on the latency intervals, and on the error of the measurement itself, from files that
    were measured twice.
    """
    found = [
        measured
        for point in points
        for measured in (point.buffered, point.sustained)
        if measured is not None and measured.latency is not None
    ]
    latencies = [record.latency for record in found if record.latency is not None]
    notes = []
    if any(latency.ci_low_ms is not None for latency in latencies):
        notes.append(
            "Intervals are of the session in which the file was measured; another session may give "
            "another median."
        )
    if any(latency.ci_low_ms is not None and latency.interval is None for latency in latencies):
        notes.append(
            "Intervals of an older version treat neighbouring samples as independent and are too "
            "narrow."
        )
    twice = [
        record
        for record in found
        if record.latency is not None and record.latency.itself is not None
    ]
    for record in twice:
        rhythm = record.protocol.rhythm if record.protocol else "unknown protocol"
        text = (
            record.latency.itself.told
            if record.latency is not None and record.latency.itself is not None
            else ""
        )
        notes.append(
            f"A/A, the error of the measurement itself: {_arch_key(record)} measured twice in "
            f"turns, {rhythm}: {text}."
        )
    return notes


def _arch_key(record: Record) -> str:
    return record.model.arch.key if record.model.arch is not None else record.model.name


def finetuning_tables(records: Sequence[Record]) -> list[Table]:
    """The change by fine-tuning, per data set and engine, from Records of one architecture with the
    variants "nas", or none where a search confirmed the file, and "nas+fine-tuning".

    These tables are the counterpart of Tables 15 and 16 for other data sets.
    """
    pairs: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    before = {
        _subject(record): record
        for variant in (None, "nas")
        for record in _tunable(records)
        if record.model.variant == variant
    }
    for after in _tunable(records):
        start = before.get(_subject(after))
        if after.model.variant == TUNED and start is not None and after.data is not None:
            pairs.setdefault((after.data.name, _engine(after)), []).append((start, after))
    tables = []
    for (name, engine), found in pairs.items():
        table = _gain_table(found, name, engine)
        table.facts = {"data": name, "engine": engine, "checkpoint": ""}
        tables.append(table)
    return tables


def _tunable(records: Sequence[Record]) -> list[Record]:
    return [
        record
        for record in records
        if record.source == "protocol"
        and record.model.arch is not None
        and record.accuracy is not None
        and record.published is None
    ]


def _subject(record: Record) -> tuple[object, ...]:
    data = record.data
    artifact = record.artifact
    mode = record.protocol.mode if record.protocol else ""
    engine = (artifact.runtime, artifact.precision) if artifact else None
    return record.model.arch, data and (data.name, data.split), engine, record.machine, mode


def _gain_table(pairs: Sequence[tuple[Record, Record]], name: str, engine: str) -> Table:
    keys = {"ap": "AP", "ap50": "AP50", "mask_ap": "mask AP"}
    columns = [Column("arch", "architecture", right=False), Column("split", "split", right=False)]
    ranks = {"ap": 0, "ap50": 3, "mask_ap": 2}
    for group in ("searched", "fine-tuned", "change"):
        columns += [
            Column(f"{group}_{key}", label, group, rank=ranks[key]) for key, label in keys.items()
        ]
    columns[-2:-2] = [Column("change_ci", "95% CI of AP", "change", rank=1)]
    columns[-1:] = [columns[-1], Column("change_mask_ci", "95% CI of mask AP", "change", rank=4)]
    columns.append(Column("files", "files", right=False, rank=5))
    table = Table(
        "fine-tuning", _title("What fine-tuning adds", pairs[0][1], name, engine), columns
    )
    for start, after in pairs:
        files = " -> ".join(
            record.artifact.sha256[:12] if record.artifact else "" for record in (start, after)
        )
        row = {"arch": Cell(after.model.arch.key if after.model.arch else ""), "files": Cell(files)}
        row["split"] = Cell(after.data.split if after.data else "")
        row["checkpoint"] = Cell(after.model.checkpoint_sha256 or "")
        for key in keys:
            low = metric(key).value(start)
            high = metric(key).value(after)
            row[f"searched_{key}"] = _ap_cell(low)
            row[f"fine-tuned_{key}"] = _ap_cell(high)
            if low is not None and high is not None:
                row[f"change_{key}"] = Cell(
                    in_points(high - low), MEASURED, percent_value(high - low)
                )
        row["change_ci"] = change_interval_cell(start, after)
        row["change_mask_ci"] = change_interval_cell(start, after, masks=True)
        if row not in table.rows:  # buffered and sustained Records of a file share one AP
            table.add(row)
    table.notes = [SYNTHETIC] if pairs[0][1].data and pairs[0][1].data.synthetic else []
    table.notes.append(
        "95% CI: of the paired difference over other images of the same kind. ≈: the interval "
        "contains 0, so no change is established; unknown: the Records keep nothing per image."
    )
    return table


def _search(records: Sequence[Record]) -> list[Record]:
    return [
        record
        for record in records
        if record.source == "search" and record.model.variant != NEVER_TRAINED
    ]


def _engine(record: Record) -> str:
    artifact = record.artifact
    machine = record.machine
    words = [artifact.runtime, artifact.precision] if artifact else ["unknown runtime"]
    words += ["CUDA graph"] if record.latency is not None and record.latency.cuda_graph else []
    if (threads := threads_of(record)) is not None:
        words += ["with", plural(threads, "thread")]
    return " ".join(words) + (
        f" on {machine.gpu or machine.cpu}, {plural(machine.cores, 'core')}" if machine else ""
    )


def _title(kind: str, record: Record, name: str, engine: str) -> str:
    images = f"on {name}" if record.data else "without a data set"
    title = f"{kind} {images}, {engine}"
    return (
        f"{title} (SYNTHETIC data: not COCO AP)" if record.data and record.data.synthetic else title
    )


def _confirmed_table(
    points: list[Confirmed], name: str, engine: str, checks: Sequence[ModelCheck]
) -> Table:
    sections = _sections(points)
    front = {sha256 for own in sections.values() for sha256 in measured_front(own)}
    mode = decision_mode(points)
    searched = any(point.arch is not None for point in points)
    kind = (
        ("Confirmed frontier" if searched else "Frontier of measured files")
        if front
        else "Measured files, no frontier,"
    )
    table = Table("frontier", _title(kind, points[0].any, name, engine), list(_COLUMNS))
    for section, inside in sections.items():
        last: Record | None = None  # the slowest member of the section's frontier so far
        for point in inside:
            timed = point.val if mode == "buffered" else point.sustained
            rated = (
                timed is not None and timed.accuracy is not None and timed.accuracy.ap is not None
            )
            cells = _point_cells(point, (point.sha256 in front) if rated else None)
            table.add({**cells, "gain": gain_cell(last, point.on("val"))}, section)
            last = point.on("val") if point.sha256 in front else last
    synthetic = [SYNTHETIC] if points[0].any.data and points[0].any.data.synthetic else []
    predicted = {backend(point.predicted) for point in points if point.predicted is not None}
    own = {
        point.predicted.latency.predicted_ms
        for point in points
        if point.predicted and point.predicted.latency
    }
    found = [
        check for check in checks if check.backend in predicted and own & {*check.predicted_ms}
    ]
    table.notes = [
        *synthetic,
        f"AP in percent. front: on the val frontier by {mode} measurement too. Accuracy and "
        f"latency of a row come from its file.",
        *(
            [
                f"modelled ms: the {mode} latency that was predicted before the file was measured, "
                f"with its error."
            ]
            if found
            else []
        ),
        *(check.describe() for check in found),
        *interval_notes(
            [
                record.accuracy
                for point in points
                for record in (point.on("val"), point.on("test"))
                if record is not None
            ]
        ),
    ]
    return table


def _sections(points: Sequence[Confirmed]) -> dict[str, list[Confirmed]]:
    """The points by heading: those of one supernet, and those of other models; "" where there are
    only points of one kind.
    """
    found: dict[str, list[Confirmed]] = {}
    for point in points:
        supernet = _checkpoint(point.any)
        heading = f"of the supernet {supernet[:8]}" if supernet else "other models"
        found.setdefault(heading, []).append(point)
    return found if len(found) > 1 else {"": list(points)}


def _point_cells(point: Confirmed, front: bool | None) -> dict[str, Cell]:
    record = point.any
    cells = {"front": Cell("" if front is None else "yes" if front else "no")}
    cells["arch"] = Cell(point.arch.key if point.arch else record.model.name)
    cells["checkpoint"] = Cell(record.model.checkpoint_sha256 or "")
    for split in ("val", "test"):
        holder = point.on(split)
        boxes: Accuracy | None = holder.accuracy if holder else None
        masks: Accuracy | None = holder.mask_accuracy if holder else None
        cells[f"{split}_ap"] = _ap_cell(boxes.ap if boxes else None)
        cells[f"{split}_ci"] = interval_cell(boxes)
        cells[f"{split}_ap50"] = _ap_cell(boxes.ap50 if boxes else None)
        cells[f"{split}_mask_ci"] = interval_cell(masks)
        cells[f"{split}_mask_ap"] = _ap_cell(masks.ap if masks else None)
    buffered: Latency | None = point.buffered.latency if point.buffered else None
    sustained: Latency | None = point.sustained.latency if point.sustained else None
    cells["buffered_ms"] = _ms_cell(buffered)
    if buffered and buffered.ci_low_ms is not None and buffered.ci_high_ms is not None:
        cells["buffered_ci"] = Cell(
            f"[{milliseconds(buffered.ci_low_ms)}, {milliseconds(buffered.ci_high_ms)}]", MEASURED
        )
    cells["modelled_ms"] = _predicted_cell(point.predicted)
    cells["sustained_ms"] = _ms_cell(sustained)
    if sustained and sustained.images_per_s is not None:
        cells["images_per_s"] = Cell(
            decimals(sustained.images_per_s, 1), MEASURED, sustained.images_per_s
        )
    if record.cost and record.cost.params:
        cells["params"] = Cell(
            decimals(record.cost.params / 1e6, 2), value=record.cost.params / 1e6
        )
    if record.artifact:
        cells["size"] = Cell(
            decimals(record.artifact.size_bytes / 1e6, 1), value=record.artifact.size_bytes / 1e6
        )
    return {**cells, "sha256": Cell(point.sha256[:12], value=point.sha256)}


def _ap_cell(value: float | None) -> Cell:
    return percent_cell(value, Cell(state=MISSING))


def _predicted_cell(record: Record | None) -> Cell:
    """The latency model's prediction, and its relative error."""
    if record is None or record.latency is None or record.latency.predicted_ms is None:
        return Cell(state=MISSING)
    predicted = record.latency.predicted_ms
    return Cell(
        f"{milliseconds(predicted)} ({100 * (predicted / record.latency.median_ms - 1):+.0f} %)",
        value=predicted,
    )


def _ms_cell(latency: Latency | None) -> Cell:
    return (
        Cell(state=MISSING)
        if latency is None
        else Cell(milliseconds(latency.median_ms), MEASURED, latency.median_ms)
    )


def _modelled_table(front: list[Record], how: str, images: str) -> Table:
    columns = [
        Column("arch", "architecture", right=False),
        Column("ap", "AP", images),
        Column("ci", "95% CI", images),
    ]
    columns += [Column("gain", "gain", images), Column("ap50", "AP50", images)]
    columns += [Column("mask_ap", "mask AP", images), Column("ms", "ms", backend(front[0]))]
    table = Table(
        "frontier",
        _title(
            "Search frontier, NOT CONFIRMED by measurement,", front[0], images, f"latency {how}"
        ),
        columns,
    )
    for before, record in zip([None, *front], front, strict=False):
        cells = {key: _ap_cell(metric(key).value(record)) for key in ("ap", "ap50", "mask_ap")}
        table.add(
            {
                "arch": Cell(record.model.arch.key if record.model.arch else record.model.name),
                **cells,
                "ci": interval_cell(record.accuracy),
                "gain": gain_cell(before, record),
                "ms": _ms_cell(record.latency),
            }
        )
    table.notes = [SYNTHETIC] if front[0].data and front[0].data.synthetic else []
    table.notes += interval_notes([record.accuracy for record in front])
    if any(too_coarse(record) for record in front):
        unknown = any(error_is_unknown(record) for record in front)
        text = (
            f"The latency model's error on engines left out of the fit "
            f"{'is not known to be within' if unknown else 'exceeds'} its bound ({bound_text()})"
        )
        table.notes.append(f"{text}: the order of the rows is not reliable.")
    return table
