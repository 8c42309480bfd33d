"""The document of the whole paper: every table and figure with what was measured here, the claims
of the text, the scoreboard, what others report, the settings, the method, the machines and the
sources.

Nothing is computed here: only selections, units and words. Each number says where it comes from: a
column "paper" or "here", or the source in square brackets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rfdetr_repro.claims.table import SMALL, counted, findings_table, summary_table
from rfdetr_repro.claims.verdicts import judged
from rfdetr_repro.paper.published import (
    CITATION,
    TABLES,
    published_records,
    published_table,
)
from rfdetr_repro.paper.stated import statements
from rfdetr_repro.plots.figures import Plan, Sources, plan_of
from rfdetr_repro.plots.pareto import drawable_points
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.answer import answer
from rfdetr_repro.tables.answer_table import LEGEND, answer_table
from rfdetr_repro.tables.campaign import campaign_tables
from rfdetr_repro.tables.format import Cell, Column, Table
from rfdetr_repro.tables.join import Measured
from rfdetr_repro.tables.missing import Here
from rfdetr_repro.tables.scoreboard import narrow, scoreboard
from rfdetr_repro.tables.stated import stated_table

from .blocks import (
    Block,
    Bullets,
    Document,
    Drawing,
    Explorer,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Title,
)
from .content import date_of, machine_words
from .findings import limited
from .run import Run

# what each figure shows; the numbers are those of the camera-ready
FIGURE_TITLES = {
    "1": "Accuracy against latency",
    "2": "The architecture",
    "3": "The five knobs of the search space",
    "4": "Dropping decoder layers and queries",
    "5": "Sensitivity to each knob",
    "6": "Predictions",
    "7": "RF100-VL: fixed architecture, search, fine-tuning",
}
# file of the paper's folder -> heading and what it is
OTHERS = {
    "baselines_author_reported": (
        "What the authors of the baselines report",
        "Printed in other projects' papers and READMEs; nothing was measured here.",
    ),
    "upstream_remeasured_t4": (
        "A later measurement on a T4 by the authors of the benchmark",
        "Measured elsewhere, by others; nothing was measured here.",
    ),
    "upstream_readme_detection": (
        "Detection as rf-detr 1.4.1 reports it",
        "Printed in the README of rf-detr 1.4.1; nothing was measured here.",
    ),
    "upstream_readme_segmentation": (
        "Segmentation as rf-detr 1.4.1 reports it",
        "Printed in the README of rf-detr 1.4.1; nothing was measured here.",
    ),
    "unprinted_source_rows": (
        "Rows that the source of the paper holds and the paper does not print",
        "Commented out in the LaTeX source: not published, and compared with nothing.",
    ),
}
SETTINGS = {
    "hyperparameters": "Training settings that the paper states",
    "nas_search_space": "The search space that the paper states",
    "fixed_resolution_family": "The family of fixed resolution",
}
_LABELS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_s": "AP S",
    "ap_m": "AP M",
    "ap_l": "AP L",
    "params_m": "Params M",
    "gflops": "GFLOPs",
    "latency_ms": "ms",
}


@dataclass
class _Cited:
    """The sources of the document, numbered in the order in which they are first named."""

    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, source: str) -> str:
        """Like ``[3]``; empty for an empty source."""
        if not source:
            return ""
        return f"[{self.numbers.setdefault(source, len(self.numbers) + 1)}]"

    def table(self) -> Table:
        """The list that the marks refer to."""
        columns = [Column("number", "mark"), Column("source", "source", right=False)]
        table = Table("sources", "", columns)
        for source, number in self.numbers.items():
            table.add({"number": Cell(f"[{number}]"), "source": Cell(source)})
        return table


def paper_document(run: Run, pictures: bool = True) -> Document:
    """The whole document, with the Records of ``run`` (which may hold none); ``pictures``: Figure 6
    shows the predictions in its folder.
    """
    records = run.records
    cited = _Cited()
    blocks: list[Block] = [*_front(records), *_reading()]
    measured = Measured(records)
    here = Here.detect(records)
    counts, *_ = scoreboard(list(TABLES), measured, here)
    blocks += [Heading("Scoreboard"), Grid(narrow(counts))]
    blocks += _claims(cited)
    blocks += _verdicts(run.records)
    blocks += _figures(Sources(records, run.folder if pictures else None))
    blocks += _tables(measured, here, cited)
    for name, (title, about) in OTHERS.items():
        blocks += [Heading(title), Paragraph(about), Grid(_printed(name, "", cited), title)]
    blocks += [Heading("Settings that the paper states")]
    blocks += [Grid(_printed(name, title, cited)) for name, title in SETTINGS.items()]
    blocks += _here(run)
    blocks += _method(records)
    blocks += _machines(records)
    blocks += [Heading("Sources"), Grid(cited.table())]
    return Document("RF-DETR: the paper's numbers, reproduced", _footer(), blocks, date_of(run))


def _footer() -> str:
    return f"Published numbers: {CITATION}. Numbers measured here are in columns of their own."


def _own(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.published is None]


def _front(records: Sequence[Record]) -> list[Block]:
    own = _own(records)
    held = (
        f"{len(own):,} Record{'' if len(own) == 1 else 's'} of measurements and searches "
        f"{'is' if len(own) == 1 else 'are'} compared with the published numbers."
        if own
        else "No Records were given: nothing here is compared with a measurement."
    )
    published = published_records()
    text = (
        f"This document holds every table and figure of {CITATION}: {len(TABLES)} tables, "
        f"{len(FIGURE_TITLES)} figures, the claims of the text, and what others report. {held}"
    )
    title = Title("RF-DETR: the paper's numbers, reproduced", CITATION)
    return [title, Paragraph(text), Explorer([*own, *published], published_first=True)]


def _reading() -> list[Block]:
    return [
        Heading("How to read the numbers"),
        Facts(
            [
                *LEGEND.items(),
                (
                    "record",
                    "the id of the stored Record that the numbers measured here come from",
                ),
                ("[n] in the column why", "the reason below the table with this number"),
                ("[n] elsewhere", "a source; all sources are listed at the end"),
                (
                    "numbering",
                    "tables have the numbers of version 1, and a note where the camera-ready "
                    "differs; figures have the numbers of the camera-ready",
                ),
            ]
        ),
    ]


def _claims(cited: _Cited) -> list[Block]:
    found = statements()
    agrees = Counter(one.agrees for one in found)
    words = ", ".join(f"{count} {text}" for text, count in agrees.most_common())
    text = (
        f"{len(found)} sentences of the text state a number. Each is recomputed from the printed "
        f"cells that the column how names. Whether the sentence and the tables agree: {words}."
    )
    return [
        Heading("Claims of the text"),
        Paragraph(text),
        Grid(stated_table(found, cited.mark, title="")),
    ]


def _verdicts(records: Sequence[Record]) -> list[Block]:
    found = judged(records)
    words = counted(one.word for one in found)
    return [
        Heading("Claims of cause and effect"),
        Paragraph(f"{len(found)} claims were put to a test here: {words}. {SMALL}"),
        Grid(replace(summary_table(found), title="", notes=[])),
        Grid(findings_table(found)),
    ]


def _figures(sources: Sources) -> list[Block]:
    blocks: list[Block] = []
    for number, title in FIGURE_TITLES.items():
        blocks.append(Heading(f"Figure {number}. {title}", new_page=number == "1"))
        try:
            plan: Plan | None = plan_of(number, sources)
            reason = ""
        except InputError as error:
            plan, reason = None, str(error)
        if plan is None:
            blocks.append(Paragraph(f"Not drawn: {reason}.", quiet=True))
        else:
            blocks.append(Drawing(plan.draw, plan.height_in, f"Figure {number}: {title}"))
    return blocks


def _tables(measured: Measured, here: Here, cited: _Cited) -> list[Block]:
    blocks: list[Block] = []
    for name in TABLES:
        table = answer_table(answer(name, measured, here), wide=True, legend=False)
        found = dict.fromkeys(published_table(name).sources)
        marks = " ".join(filter(None, map(cited.mark, found)))
        notes = [*table.notes, f"Entered from {marks}."] if marks else table.notes
        blocks.append(Heading(table.title, new_page=not blocks))
        untitled = replace(table, title="", notes=notes)
        blocks.append(Grid(untitled, table.title.partition(". ")[0]))
    return blocks


def _printed(name: str, title: str, cited: _Cited) -> Table:
    """A file of the paper's folder as it was printed, with the mark of each row's source."""
    found = published_table(name, "all")
    columns = [
        Column(key, _LABELS.get(key, key.replace("_", " ")), right=_numeric(found.rows, key))
        for key in found.columns
    ]
    table = Table(name, title, [*columns, Column("source", "source", right=False)])
    for row, source in zip(found.rows, found.sources, strict=True):
        cells = {key: Cell(row[key]) for key in found.columns}
        table.add({**cells, "source": Cell(cited.mark(source))})
    return table.without_empty_columns()


def _numeric(rows: Sequence[dict[str, str]], key: str) -> bool:
    texts = [row[key] for row in rows if row[key]]
    return bool(texts) and all(text.lstrip("<>~+-").replace(".", "", 1).isdigit() for text in texts)


def _here(run: Run) -> list[Block]:
    """The frontier and the tables of the Records themselves."""
    blocks: list[Block] = []
    if drawable_points(run.records):
        plan = plan_of("pareto", Sources(run.records))
        blocks.append(Drawing(plan.draw, plan.height_in, "Accuracy against latency, measured here"))
    blocks += [Grid(limited(table, run)) for table in campaign_tables(run.records)]
    return [Heading("Measured and searched here", new_page=True), *blocks] if blocks else []


def _method(records: Sequence[Record]) -> list[Block]:
    usual = Protocol()
    counts = Counter(
        record.protocol for record in _own(records) if record.protocol and record.latency
    )
    sentences = [
        "Accuracy and latency of a row come from one file, identified by its SHA-256. A "
        "measurement joins a published row only if family, size, task and data set agree; a "
        "latency is compared only if device, runtime, precision, wait and CUDA graph agree as "
        "well.",
        f"By default a latency is the median over {usual.min_samples} to {usual.max_samples} "
        f"single images after {usual.warmup} runs of warm-up, each after a wait of "
        f"{usual.buffer_ms:g} ms (buffered mode); samples are taken until the 95 % interval of the "
        f"median is narrower than {100 * usual.relative_ci:g} % of the median, or for "
        f"{usual.timeout_s:g} s.",
        "An interval of AP is over other images of the same kind: images are drawn again with "
        "replacement.",
    ]
    blocks: list[Block] = [Heading("Method"), Bullets(sentences)]
    if counts:
        blocks.append(Grid(_protocols(counts)))
    return blocks


def _protocols(counts: Counter[Protocol]) -> Table:
    """The protocols of the measured Records, the most frequent first; protocols that agree in every
    column are one row.
    """
    columns = [
        Column("mode", "mode", right=False),
        Column("scope", "scope", right=False),
        Column("samples", "samples per build"),
        Column("builds", "builds"),
        Column("threads", "threads"),
        Column("records", "Records"),
    ]
    table = Table("protocols", "Protocols of the measured latencies", columns)
    merged: Counter[tuple[str, ...]] = Counter()
    for protocol, count in counts.items():
        key = (
            protocol.rhythm,
            protocol.scope,
            f"{protocol.min_samples} to {protocol.max_samples}",
            str(protocol.builds),
            str(protocol.threads),
        )
        merged[key] += count
    for texts_of, count in merged.most_common():
        shown = [*texts_of, f"{count:,}"]
        texts = dict(zip([column.key for column in columns], shown, strict=True))
        table.add({name: Cell(text) for name, text in texts.items()})
    return table


def _machines(records: Sequence[Record]) -> list[Block]:
    own = _own(records)
    counts = Counter(
        machine_words(vars(record.machine)) for record in own if record.machine and record.latency
    )
    if not counts:
        return [Heading("Machines"), Paragraph("No latency was measured here.")]
    table = Table(
        "machines",
        "Machines of the measured and modelled latencies",
        [Column("machine", "machine", right=False), Column("records", "Records")],
    )
    for words, count in counts.most_common():
        table.add({"machine": Cell(words), "records": Cell(f"{count:,}")})
    env: dict[str, set[str]] = {}
    for record in own:
        for name, version in record.env.items():
            env.setdefault(name, set()).add(version)
    pairs = [(name, ", ".join(sorted(found))) for name, found in sorted(env.items())]
    return [Heading("Machines and programs"), Grid(table), *([Facts(pairs)] if pairs else [])]
