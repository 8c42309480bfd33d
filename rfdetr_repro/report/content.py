"""What the report of a run consists of, in order; a part that the run does not hold is listed at
the end.

Nothing is computed here that was not measured: only selections, units and words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from rfdetr_repro.plots.diagnosis import charts
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.tables.diagnosis import UNKNOWN_NOTE, class_table, size_table
from rfdetr_repro.tables.format import Cell, Column, Table

from .blocks import (
    Bullets,
    Document,
    Drawing,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Section,
    Title,
)
from .findings import (
    accuracy_and_latency,
    after_search,
    latency_parts,
    limited,
    other_records,
    paper,
    pareto,
    search_space,
    training,
)
from .run import EVALUATION, Run
from .statements import about, footer, headline, name_of, scored

MAX_PICTURES = 6
CHARTS = {  # of an evaluation, in words
    "pr": "precision against recall",
    "scores": "precision, recall and F1 against the score",
    "confusion": "confusion matrix",
}


def report(run: Run, front: Section | None = None) -> Document:
    """The whole report of a run. ``front``: its section :func:`pareto`, if that is made already."""
    document = Document(_title(run), footer(run.records), date=date_of(run))
    absent: dict[str, None] = {}
    for part in (
        _front,
        _headline,
        _machine_and_command,
        pareto,
        _stages,
        _data,
        _recipe,
        _checks,
        accuracy_and_latency,
        latency_parts,
        other_records,
        after_search,
        training,
        search_space,
        _search_cost,
        _predictions,
        _evaluation,
        paper,
        _environment,
    ):
        section = front if front is not None and part is pareto else part(run)
        if section.heading is not None and section.blocks:
            document.blocks.append(section.heading)
        document.blocks += section.blocks
        absent.update(dict.fromkeys(section.absent))
    if absent:
        document.blocks += [Heading("Not in this run"), Bullets([f"{words}." for words in absent])]
    return document


def date_of(run: Run) -> datetime | None:
    """The date of the report: SOURCE_DATE_EPOCH, else the end of the run, else the start of the
    last measurement; None if none of these is known.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None:
        try:
            return datetime.fromtimestamp(int(epoch), timezone.utc)
        except (ValueError, OverflowError, OSError) as error:
            raise InputError(
                f"SOURCE_DATE_EPOCH is not a number of seconds: {epoch!r}", hint="unset it"
            ) from error
    dates = [str(run.summary.get("finished_at") or "")]
    dates += sorted((record.started_at or "" for record in run.records), reverse=True)
    for text in dates[:2]:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            continue
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return None


def _title(run: Run) -> str:
    return str(run.summary.get("title") or f"Run {run.folder.resolve().name}")


def _front(run: Run) -> Section:
    campaign = run.summary.get("campaign")
    parts = [f"campaign {campaign}" if campaign else "", _when(run)]
    subtitle = "  ·  ".join(filter(None, parts))
    section = Section(None, [Title(_title(run), subtitle), Paragraph(about(run))])
    if run.synthetic and any(map(scored, run.records)):
        section.blocks.append(Paragraph(footer(run.records), strong=True))
    return section


def _when(run: Run) -> str:
    finished = str(run.summary.get("finished_at") or "")
    return f"finished {finished[:16].replace('T', ' ')} UTC" if finished else ""


def _headline(run: Run) -> Section:
    found = headline(run)
    absent = [] if found else ["A file with AP measured on a val split"]
    return Section(Heading("Headline"), [Facts(pairs) for pairs in found], absent)


def _machine_and_command(run: Run) -> Section:
    facts = [("command", str(run.summary.get("command") or "")), ("machine", _machine(run))]
    pairs = [pair for pair in facts if pair[1]]
    return Section(None, [Facts(pairs)] if pairs else [])


def _machine(run: Run) -> str:
    """Machines that Records were measured on; of a run without such Records the one that the
    summary names.
    """
    measured = dict.fromkeys(
        record.machine
        for record in run.records
        if record.machine and record.latency and not record.published
    )
    if measured:
        return "; ".join(machine_words(vars(machine)) for machine in measured)
    named = run.part("machine")
    return machine_words(named) if named else ""


def machine_words(machine: Mapping[str, Any]) -> str:
    """A machine in words, of what is known about it."""
    memory = machine.get("memory_gib")
    words = [
        str(machine.get("cpu") or ""),
        f"{machine['cores']} cores" if machine.get("cores") else "",
        f"{memory:.1f} GiB" if isinstance(memory, (int, float)) else "",
        str(machine.get("os") or ""),
        str(machine.get("gpu") or ""),
    ]
    return ", ".join(filter(None, words))


def _stages(run: Run) -> Section:
    section = Section(Heading("Stages", new_page=True))
    stages = run.items("stages")
    if not stages:
        section.absent.append("Stages and their durations")
        return section
    columns = [
        Column("name", "stage", right=False),
        Column("time", "time"),
        Column("detail", "", right=False),
    ]
    table = Table("stages", "Stages and their durations", columns)
    for stage in stages:
        seconds = stage.get("seconds")
        time = duration(seconds) if isinstance(seconds, (int, float)) else ""
        table.add(
            {
                "name": Cell(str(stage.get("name", ""))),
                "time": Cell(time),
                "detail": Cell(str(stage.get("detail", ""))),
            }
        )
    times = [stage["seconds"] for stage in stages if isinstance(stage.get("seconds"), (int, float))]
    whole = (
        "all"
        if len(times) == len(stages)
        else f"{len(times)} of {len(stages)} stages, the others without a time"
    )
    table.add({"name": Cell(whole), "time": Cell(duration(sum(times)) if times else "")})
    section.blocks.append(Grid(table))
    return section


def _data(run: Run) -> Section:
    section = Section(Heading("Data"))
    data = run.part("data")
    if data.get("description"):
        section.blocks.append(Paragraph(str(data["description"])))
    if splits := data.get("splits"):
        columns = [
            Column("split", "split", right=False),
            Column("images", "images"),
            Column("sha256", "SHA-256", right=False),
        ]
        table = Table("data", "Splits", columns)
        for name, split in splits.items():
            facts = split if isinstance(split, dict) else {}
            images = facts.get("images")
            table.add(
                {
                    "split": Cell(str(name)),
                    "images": Cell("" if images is None else str(images)),
                    "sha256": Cell(str(facts.get("sha256") or "")),
                }
            )
        section.blocks.append(Grid(table))
    if not section.blocks:
        section.absent.append("A description of the data")
    return section


def _recipe(run: Run) -> Section:
    section = Section(Heading("Training recipe and departures from the paper"))
    recipe = run.part("recipe")
    departures = run.items("departures")
    if recipe:
        section.blocks.append(Facts(_settings(recipe)))
    else:
        section.absent.append("The training recipe")
    if departures:
        section.blocks.append(Bullets([str(item) for item in departures]))
    else:
        section.absent.append("Departures from the paper's recipe")
    return section


def _checks(run: Run) -> Section:
    checks = run.items("checks")
    if not checks:
        return Section(None, absent=["Checks made during the run"])
    return Section(Heading("Checks made during the run"), [Bullets([str(item) for item in checks])])


def _settings(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plain fields as one run of text, then one for every group of fields."""
    groups: dict[str, Mapping[str, Any]] = {
        "training": {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    }
    groups.update({str(key): value for key, value in recipe.items() if isinstance(value, Mapping)})
    shown = {
        name: ", ".join(f"{str(key).replace('_', ' ')} {value}" for key, value in fields.items())
        for name, fields in groups.items()
    }
    return [(name, text) for name, text in shown.items() if text]


def _predictions(run: Run) -> Section:
    section = Section(Heading("Example predictions", new_page=True))
    section.blocks += [Picture(path, caption) for path, caption in run.pictures[:MAX_PICTURES]]
    more = len(run.pictures) - MAX_PICTURES
    if more > 0:
        verb = "picture is" if more == 1 else "pictures are"
        section.blocks.append(
            Paragraph(f"{more:,} more {verb} in the folder predictions.", quiet=True)
        )
    if not run.pictures:
        section.absent.append("Example predictions")
    return section


def _evaluation(run: Run) -> Section:
    """AP and errors of the chosen model by class and size, with the charts of the evaluation."""
    section = Section(Heading("What the chosen model does well and badly", new_page=True))
    found = run.evaluation
    if not found:
        if any(record.source == "search" for record in run.records):
            section.absent.append(
                "An evaluation by class: rfdetr-repro evaluate --model FILE --data DIR --out "
                "RUN/evaluation"
            )
        return section
    where = f"{found['model']} on {found['data']} {found['split']}"
    section.blocks.append(
        Paragraph(
            f"Model {found['model']} (file {found['artifact'][:12]}) was evaluated on the "
            f"{plural(found['num_images'], 'image')} of the split {found['split']}."
        )
    )
    for kind, diagnosis in found["diagnosis"].items():
        section.blocks += [
            Grid(limited(class_table(diagnosis, kind), run)),
            Paragraph(diagnosis["threshold"]["says"]),
            Grid(size_table(diagnosis, kind)),
            *(
                Drawing(draw, height, f"{CHARTS[name]}: {kind}, {where}")
                for name, draw, height in charts(diagnosis, f"{kind}, {where}")
            ),
        ]
        worst = run.folder / EVALUATION.parent / f"{kind}-worst.png"
        if worst.exists():
            section.blocks.append(
                Picture(worst, f"The images of {found['split']} with the most errors, {kind}.")
            )
    section.blocks.append(Paragraph(UNKNOWN_NOTE, quiet=True))
    return section


def _search_cost(run: Run) -> Section:
    section = Section(Heading("Cost of the search"))
    search = run.part("search")
    if not search:
        section.absent.append("Timing of the search")
        return section
    single = search.get("one_by_one") or {}
    model = search.get("latency_model") or {}
    speedup = single.get("speedup")
    numbers = {
        "configurations": search.get("configurations"),
        "distinct backbones": search.get("backbones"),
        "shared pass over all configurations": _seconds(search.get("shared_seconds")),
        "shared, per configuration": _seconds(single.get("shared_seconds_per_configuration")),
        "one by one, per configuration": _seconds(single.get("seconds_per_configuration")),
        "configurations timed one by one": single.get("configurations_timed"),
        "speed-up by sharing": f"{speedup:.1f} x" if isinstance(speedup, (int, float)) else None,
        "engines measured for the latency model": model.get("engines_measured"),
        "engines in its cross-validation, each left out of one fit": model.get("heldout"),
        "median relative error on an engine left out of the fit": _share(
            model.get("heldout_median_error")
        ),
        "largest relative error on an engine left out of the fit": _share(
            model.get("heldout_max_error")
        ),
        "latency mode that decides": model.get("mode"),
        "median relative error on the confirmed files": _share(model.get("confirmed_median_error")),
        "largest relative error on the confirmed files": _share(model.get("confirmed_max_error")),
    }
    pairs = [(name, str(value)) for name, value in numbers.items() if value is not None]
    section.blocks += [Facts(pairs)] if pairs else []
    return section


def _environment(run: Run) -> Section:
    section = Section(Heading("Environment and provenance"))
    env = run.part("env") or next((record.env for record in run.records if record.env), {})
    if env:
        pairs = [(str(name), str(value)) for name, value in sorted(env.items())]
        section.blocks.append(Facts(pairs))
    else:
        section.absent.append("Package versions")
    if run.records_path and run.records_path.exists():
        section.blocks.append(
            Facts([("store", str(run.records_path)), ("Records", f"{len(run.records):,}")])
        )
    table = _hashes(run)
    section.blocks += [Grid(limited(table, run))] if table.rows else []
    return section


def _hashes(run: Run) -> Table:
    columns = [Column("what", "file", right=False), Column("sha256", "SHA-256", right=False)]
    table = Table("hashes", "Hashes", columns)
    files = [run.records_path, run.folder / "summary.json", run.folder / "train_log.jsonl"]
    for path in files:
        if path is not None and path.is_file():
            table.add({"what": Cell(path.name), "sha256": Cell(sha256_file(path))})
    for point in run.points:
        table.add({"what": Cell(name_of(point)), "sha256": Cell(point.sha256)})
    return table


def duration(seconds: float) -> str:
    """``41 s``, ``11 min 30 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _seconds(value: Any) -> str | None:
    return f"{value:.3g} s" if isinstance(value, (int, float)) else None


def _share(value: Any) -> str | None:
    return f"{100 * value:.1f} %" if isinstance(value, (int, float)) else None
