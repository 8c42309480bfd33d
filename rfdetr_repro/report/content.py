"""Says what the report says about a run; a part that is absent is named as absent.

Nothing is computed here that was not measured: only selections, units and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rfdetr_repro.paper.published import TABLES
from rfdetr_repro.plots.figures import HEIGHTS_IN
from rfdetr_repro.plots.knobs import draw_knobs
from rfdetr_repro.plots.pareto import draw_pareto, drawable_points, pareto_height_in
from rfdetr_repro.plots.sensitivity import draw_sensitivity, sensitivity_height_in
from rfdetr_repro.plots.training import draw_training
from rfdetr_repro.records.sensitivity import comparable_searches, searched, sensitivity
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.tables.campaign import SYNTHETIC, frontier_tables
from rfdetr_repro.tables.format import Cell, Column, Table
from rfdetr_repro.tables.modelled import modelled_tables
from rfdetr_repro.tables.published import paper_table, shown_columns
from rfdetr_repro.tables.scoreboard import narrow, scoreboard
from rfdetr_repro.tables.sensitivity import sensitivity_tables

from .after import after_search
from .blocks import (
    Block,
    Bullets,
    Document,
    Drawing,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Title,
)
from .headline import headline
from .run import Run
from .statements import about, footer, scored

MAX_PICTURES = 6


def report(run: Run) -> Document:
    """The whole report of a run."""
    title = str(run.summary.get("title") or f"Run {run.folder.name}")
    document = Document(title, footer(run.records))
    for section in (
        _front,
        _what_ran,
        _frontier,
        after_search,
        _training,
        _knobs,
        _economy,
        _predictions,
        _paper,
        _environment,
    ):
        document.blocks += section(run)
    return document


def _absent(what: str) -> Paragraph:
    return Paragraph(f"{what}: not in this run.", quiet=True)


def _front(run: Run) -> list[Block]:
    subtitle = "  ·  ".join(
        filter(
            None,
            (
                f"campaign {run.summary['campaign']}" if run.summary.get("campaign") else "",
                _when(run),
            ),
        )
    )
    blocks: list[Block] = [
        Title(str(run.summary.get("title") or f"Run {run.folder.name}"), subtitle),
        Paragraph(about(run)),
    ]
    if run.synthetic and any(map(scored, run.records)):
        blocks.append(Paragraph(SYNTHETIC, strong=True))
    blocks += [Heading("Headline"), *headline(run)]
    facts = [("command", str(run.summary.get("command", ""))), ("machine", _machine(run))]
    blocks.append(Facts([pair for pair in facts if pair[1]]))
    if drawable_points(run.records):
        return [
            *blocks,
            Drawing(
                partial(draw_pareto, records=run.records),
                pareto_height_in(run.records),
                "AP against latency",
            ),
        ]
    return [*blocks, _absent("A Pareto plot")]


def _when(run: Run) -> str:
    finished = str(run.summary.get("finished_at") or "")
    return f"finished {finished[:16].replace('T', ' ')} UTC" if finished else ""


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
        return "; ".join(_machine_words(vars(machine)) for machine in measured)
    named = run.part("machine")
    return _machine_words(named) if named else ""


def _machine_words(machine: Mapping[str, Any]) -> str:
    words = [str(machine.get("cpu") or "")]
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    words += (
        [f"{machine['memory_gib']:.1f} GiB"]
        if isinstance(machine.get("memory_gib"), (int, float))
        else []
    )
    return ", ".join(
        filter(None, [*words, str(machine.get("os") or ""), str(machine.get("gpu") or "")])
    )


def _what_ran(run: Run) -> list[Block]:
    blocks: list[Block] = [Heading("What ran where", new_page=True)]
    stages = [stage for stage in run.items("stages") if isinstance(stage, dict)]
    if stages:
        table = Table(
            "stages",
            "Stages",
            [
                Column("name", "stage", right=False),
                Column("time", "time"),
                Column("detail", "", right=False),
            ],
        )
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
        times = [
            stage["seconds"] for stage in stages if isinstance(stage.get("seconds"), (int, float))
        ]
        whole = (
            "all"
            if len(times) == len(stages)
            else f"{len(times)} of {len(stages)} stages, the others without a time"
        )
        table.add({"name": Cell(whole), "time": Cell(duration(sum(times)) if times else "")})
        blocks.append(Grid(table))
    blocks += [] if stages else [_absent("Stages and their durations")]
    return [*blocks, *_data(run), *_recipe(run)]


def _data(run: Run) -> list[Block]:
    data = run.part("data")
    blocks: list[Block] = [Heading("Data")]
    if data.get("description"):
        blocks.append(Paragraph(str(data["description"])))
    splits = data.get("splits")
    if isinstance(splits, dict) and splits:
        columns = [
            Column("split", "split", right=False),
            Column("images", "images"),
            Column("sha256", "SHA-256", right=False),
        ]
        table = Table("data", "Splits", columns)
        for name, split in splits.items():
            split = split if isinstance(split, dict) else {}
            images = split.get("images")
            digest = split.get("sha256")
            table.add(
                {
                    "split": Cell(str(name)),
                    "images": Cell("" if images is None else str(images)),
                    "sha256": Cell(str(digest or "")),
                }
            )
        blocks.append(Grid(table))
    return blocks if len(blocks) > 1 else [*blocks, _absent("A description of the data")]


def _recipe(run: Run) -> list[Block]:
    recipe = run.part("recipe")
    departures = run.items("departures")
    checks = run.items("checks")
    blocks: list[Block] = [Heading("Training recipe and where it departs from the paper")]
    blocks.append(Facts(_settings(recipe)) if recipe else _absent("The recipe"))
    blocks.append(
        Bullets([str(item) for item in departures])
        if departures
        else _absent("Departures from the paper's recipe")
    )
    blocks.append(Heading("Checks made during the run"))
    blocks.append(Bullets([str(item) for item in checks]) if checks else _absent("Checks"))
    return blocks


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


def _frontier(run: Run) -> list[Block]:
    blocks: list[Block] = [Heading("Frontier")]
    tables = frontier_tables(run.records)
    blocks += [Grid(table) for table in tables] or [_absent("Search or protocol Records")]
    blocks += [Grid(table) for table in modelled_tables(run.records)]
    return blocks


def _knobs(run: Run) -> list[Block]:
    heading = Heading("The search space, knob by knob")
    if not searched(run.records):
        return [heading, _absent("Search Records")]
    draw = partial(draw_knobs, records=run.records)
    blocks: list[Block] = [
        heading,
        Drawing(draw, HEIGHTS_IN["knobs"], "AP and latency against each knob"),
    ]
    if not any(map(sensitivity, comparable_searches(run.records))):
        return [*blocks, _absent("A pair of configurations that differ in one knob alone")]
    paired = partial(draw_sensitivity, records=run.records)
    blocks.append(
        Drawing(
            paired,
            sensitivity_height_in(run.records),
            "effect of one step of each knob, all else equal",
        )
    )
    return [*blocks, *map(Grid, sensitivity_tables(run.records))]


def _training(run: Run) -> list[Block]:
    shown = [
        row
        for row in run.log
        if row.get("weights") != "raw"
        and any(row.get(key) is not None for key in ("loss", "ap50", "val_ap50", "test_ap50"))
    ]
    if not shown:
        return [Heading("Training"), _absent("A training log")]
    return [
        Heading("Training"),
        Drawing(
            partial(draw_training, rows=shown), HEIGHTS_IN["training"], "loss and AP50 over steps"
        ),
    ]


def _predictions(run: Run) -> list[Block]:
    if not run.pictures:
        return [Heading("Example predictions"), _absent("Example predictions")]
    blocks: list[Block] = [Heading("Example predictions", new_page=True)]
    blocks += [Picture(path, caption) for path, caption in run.pictures[:MAX_PICTURES]]
    if len(run.pictures) > MAX_PICTURES:
        blocks.append(
            Paragraph(
                f"{len(run.pictures) - MAX_PICTURES} more lie in the folder predictions.",
                quiet=True,
            )
        )
    return blocks


def _economy(run: Run) -> list[Block]:
    search = run.part("search")
    if not search:
        return [Heading("What the search cost"), _absent("Timing of the search")]
    one, model = (
        search[key] if isinstance(search.get(key), dict) else {}
        for key in ("one_by_one", "latency_model")
    )
    numbers = {
        "configurations": search.get("configurations"),
        "distinct backbones": search.get("backbones"),
        "shared pass over all configurations": _seconds(search.get("shared_seconds")),
        "shared, per configuration": _seconds(one.get("shared_seconds_per_configuration")),
        "one by one, per configuration": _seconds(one.get("seconds_per_configuration")),
        "configurations timed one by one": one.get("configurations_timed"),
        "shared search is faster by": f"{one['speedup']:.1f} x"
        if isinstance(one.get("speedup"), (int, float))
        else None,
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
    return [
        Heading("What the search cost"),
        Facts([(name, str(value)) for name, value in numbers.items() if value is not None]),
    ]


def _paper(run: Run) -> list[Block]:
    text = (
        "Published values (camera-ready) left, values measured in this run right; the last GFLOPs "
        "are computed from the architecture. A measured Record joins a row only if family, size, "
        "task and data set agree, so no AP measured on composed images appears here."
    )
    blocks: list[Block] = [Heading("Beside the paper: Table 2", new_page=True), Paragraph(text)]
    blocks.append(Grid(shown_columns(paper_table("2", run.records))))
    counts, *_ = scoreboard(list(TABLES), run.records)
    explained = (
        "Every number that the camera-ready prints in a table is one cell below. The command "
        "python -m rfdetr_repro.tables --scoreboard --format json lists them all, each with the "
        "command that would measure it, or why none does."
    )
    return [
        *blocks,
        Heading("Scoreboard of the paper's tables", new_page=True),
        Paragraph(explained),
        Grid(narrow(counts)),
    ]


def _environment(run: Run) -> list[Block]:
    env = run.part("env") or next((record.env for record in run.records if record.env), {})
    blocks: list[Block] = [Heading("Environment and provenance")]
    blocks.append(
        Facts([(str(name), str(value)) for name, value in sorted(env.items())])
        if env
        else _absent("Package versions")
    )
    files = [run.records_path, run.folder / "summary.json", run.folder / "train_log.jsonl"]
    stored = [path for path in files if path is not None and path.is_file()]
    if run.records_path:
        blocks.append(Facts([("store", str(run.records_path)), ("Records", str(len(run.records)))]))
    table = Table(
        "hashes",
        "Hashes",
        [Column("what", "what", right=False), Column("sha256", "SHA-256", right=False)],
    )
    for path in stored:
        table.add({"what": Cell(path.name), "sha256": Cell(sha256_file(path))})
    for point in run.points:
        table.add(
            {
                "what": Cell(point.arch.key if point.arch else point.any.model.name),
                "sha256": Cell(point.sha256),
            }
        )
    return [*blocks, Grid(table)] if table.rows else blocks


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
