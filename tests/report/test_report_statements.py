"""Every sentence of a report follows from the Records: folders of odd kinds, and words that none of
them may hold.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from samples_intervals import sure, three
from samples_records import SHA, measured
from samples_report import everything
from samples_run import protocol_record, run_records, search_record, sha, training_rows

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.plots.pareto import pareto_panels
from rfdetr_repro.records.record import MEAN, Cost, DataId, Latency, ModelId, Record
from rfdetr_repro.report.blocks import Grid
from rfdetr_repro.report.build import build_report
from rfdetr_repro.report.content import report
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.pages import WIDTH_PT, text_width_pt, wrap
from rfdetr_repro.report.pdf import write_pdf
from rfdetr_repro.report.pdf_table import parts
from rfdetr_repro.report.run import read_run
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.campaign import EMBEDDED, campaign, from_scratch
from rfdetr_repro.spec.departures import departures
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.campaign import frontier_tables
from rfdetr_repro.tables.modelled import modelled_tables

ARCH = Arch(128, 16, 1, 2, 25)
FOREIGN = ModelId("foreign", "somebody's detector", checkpoint_sha256=None)
MINE = DataId("my parts", "val", "d" * 64, 120)


def written(tmp_path, records, summary=None, log=()):
    """A run folder with these parts, read again."""
    folder = tmp_path / "run"
    folder.mkdir()
    if records is not None:
        (folder / "records.jsonl").write_text(
            "".join(f"{record.to_json()}\n" for record in records)
        )
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    if log:
        (folder / "train_log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in log))
    return read_run(folder)


def told(run) -> str:
    return everything(report(run))


def foreign(data: DataId | None = MINE, **changes) -> Record:
    record = measured(model=FOREIGN, data=data)
    return replace(record, **changes)


SUPERNET = (
    "supernet",
    "shared weights",
    "were trained",
    "was trained",
    "every configuration",
    "fine-tuned file",
)
CASES = {
    "one foreign file": (
        [foreign()],
        ["1 exported file has both AP and latency", "AP was measured on my parts."],
        SUPERNET,
    ),
    "latency only": (
        [
            replace(
                foreign(None),
                accuracy=None,
                mask_accuracy=None,
                model=replace(FOREIGN, weights="random"),
            )
        ],
        [
            "Of 1 file latency alone was measured, 1 of them with random weights",
            "no measured accuracy",
        ],
        (
            *SUPERNET,
            "both AP and latency",
            "AP was measured on",
            "Confirmed frontier",
            "highest AP on val:",
        ),
    ),
    "latency only on named data": (
        [replace(foreign(), accuracy=None, mask_accuracy=None)],
        ["latency alone was measured", "This run holds no measured accuracy."],
        (*SUPERNET, "AP was measured on my parts"),
    ),
    "AP only": (
        [foreign(latency=None, protocol=None)],
        ["Of 1 file AP alone was measured."],
        (*SUPERNET, "Latencies were taken"),
    ),
    "search without confirmation": (
        [search_record(arch) for arch in (ARCH, Arch(96, 16, 1, 1, 10))],
        ["2 configurations of one supernet", "modelled, not measured", "NOT CONFIRMED"],
        (
            "every configuration",
            "exported file",
            "Confirmed frontier",
            "was trained",
            "highest AP on val:",
        ),
    ),
    "boxes only": (
        [replace(protocol_record(ARCH), mask_accuracy=None)],
        ["AP is of boxes; masks were not measured."],
        ("was trained", "with shared weights"),
    ),
    "user's data": (
        [replace(search_record(ARCH), data=MINE), replace(protocol_record(ARCH), data=MINE)],
        ["AP was measured on my parts.", "on my parts val with shared weights"],
        ("synthetic", "SYNTHETIC", "composed (", "same objects"),
    ),
    "several checkpoints": (
        [
            search_record(ARCH),
            replace(
                search_record(ARCH),
                model=replace(search_record(ARCH).model, checkpoint_sha256="9" * 64),
            ),
        ],
        [f"of one supernet ({sha('checkpoint')[:8]})", "of one supernet (99999999)"],
        ("2 configurations",),
    ),
    "paced only": (
        [foreign(protocol=Protocol("paced", fps=30.0))],
        ["paced 30 fps", "1 Record of another rhythm", "in no frontier"],
        (*SUPERNET, "buffered 200 ms", "Confirmed frontier", "latency, buffered"),
    ),
    "means": (
        [
            foreign(
                DataId("rf100-vl", "test, mean over 100 data sets"), source=MEAN, parts=("a", "b")
            )
        ],
        ["1 Record is a mean over several data sets."],
        (*SUPERNET, "exported file", "Confirmed frontier"),
    ),
    "counts": (
        [Record("cost", FOREIGN, cost=Cost(5, 1e9, counter="onnx", form="deployed"))],
        ["1 Record counts parameters or operations.", "no measured accuracy"],
        (*SUPERNET, "exported file"),
    ),
    "published": (
        published_records("2")[:3],
        ["3 Records hold published numbers"],
        (*SUPERNET, "AP was measured on"),
    ),
    "empty store": (
        [],
        ["No measurement is stored in it."],
        (*SUPERNET, "exported file", "frontier on"),
    ),
    "no store": (
        None,
        ["No measurement is stored in it."],
        (*SUPERNET, "exported file", "frontier on"),
    ),
    "test split only": (
        [foreign(replace(MINE, split="test"))],
        ["1 exported file has both"],
        (*SUPERNET, "highest AP on val:"),
    ),
    "composed and real": (
        [foreign(), protocol_record(ARCH)],
        [
            "AP was measured on my parts. AP on embedded is of composed (synthetic) images: it is "
            "not COCO AP."
        ],
        ("with shared weights",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_says_what_is_in_it_and_nothing_else(name, tmp_path):
    records, wanted, banned = CASES[name]
    run = written(tmp_path, records)
    document = report(run)
    words = f"{everything(document)}\n{document.footer}"
    assert [text for text in wanted if text not in words] == []
    opening = words.partition("Beside the paper")[0] + document.footer
    assert [text for text in banned if text in opening] == []


def test_odd_folders_can_be_printed(tmp_path):
    mixed = [record for records, *_ in CASES.values() for record in records or ()]
    assert build_report(written(tmp_path, mixed).folder).stat().st_size > 1000


def test_training_is_told_from_its_log(tmp_path):
    run = written(tmp_path, [], log=training_rows())
    assert "log of a training run up to step 2,000." in told(run)


def test_the_share_of_the_space_is_told_where_its_size_is_known(tmp_path):
    records = [search_record(ARCH), search_record(Arch(96, 16, 1, 1, 10))]
    run = written(tmp_path, records, summary={"search": {"configurations": 6468}})
    assert "2 of 6,468 configurations" in told(run)


def test_the_best_is_claimed_only_where_it_is_established(tmp_path):
    (tmp_path / "a").mkdir()
    words = told(written(tmp_path / "a", three()))
    assert "Not told apart from r128-p16-w1-d1-q15" in words and "Better than" not in words
    (tmp_path / "b").mkdir()
    clear = [*three()[:1], sure(protocol_record(Arch(160, 16, 1, 2, 25)), 0.6, 0.55, 0.65)]
    assert "Better than the other file: the 95 % interval" in told(written(tmp_path / "b", clear))
    (tmp_path / "c").mkdir()
    old = [protocol_record(arch) for arch in (ARCH, Arch(96, 16, 1, 1, 10))]
    words = told(written(tmp_path / "c", old))
    assert "is not known: nothing is stored per image" in words and "interval unknown" in words
    (tmp_path / "d").mkdir()
    assert "how sure" not in told(written(tmp_path / "d", old[:1]))


def test_a_file_that_only_the_sustained_mode_timed_is_rated_and_drawn(tmp_path):
    run = written(
        tmp_path,
        [protocol_record(ARCH, mode="sustained"), protocol_record(ARCH, "test", mode="sustained")],
    )
    words = told(run)
    assert (
        f"highest AP on val: {ARCH.key}" in words
        and "latency, sustained median" in words
        and "buffered median" not in words
    )
    (panel,) = pareto_panels(run.records)
    assert (panel.mode, len(panel.points)) == ("sustained", 1) and "A Pareto plot" not in words


def test_two_data_sets_have_a_headline_each(tmp_path):
    other = replace(protocol_record(Arch(96, 16, 1, 1, 10)), data=MINE)
    words = told(written(tmp_path, [protocol_record(ARCH), other]))
    assert "data set: embedded" in words and "data set: my parts" in words


def test_machines_are_those_of_the_records(tmp_path):
    other = replace(protocol_record(ARCH).machine, cpu="Other CPU", gpu="Some GPU")
    records = [
        protocol_record(ARCH),
        replace(protocol_record(Arch(96, 16, 1, 1, 10)), machine=other),
    ]
    words = told(
        written(tmp_path, records, summary={"machine": {"cpu": "of the summary", "cores": 3}})
    )
    assert (
        "Example CPU" in words
        and "Other CPU" in words
        and "Some GPU" in words
        and "of the summary" not in words
    )
    assert "no GPU" not in words


def test_modelled_stands_beside_confirmed_in_one_mode(tmp_path):
    """The samples: sustained is 0.9 times, buffered 1.02 times what is modelled, and the model is
    of the sustained mode.
    """
    (table,) = modelled_tables(run_records())
    errors = {row["error"].text for row in table.rows}
    assert "sustained" in table.title and errors == {"+11.1"}
    assert (
        "median 11.1%, largest 11.1%" in table.notes[0]
        and "orders 0 of" in table.notes[0]
        and "stated 3.0%" in table.notes[1]
    )
    assert table.title in told(written(tmp_path, run_records()))
    buffered = [
        replace(r, deployment="onnxruntime fp32 buffered") if r.source == "search" else r
        for r in run_records()
    ]
    (table,) = modelled_tables(buffered)
    assert "buffered" in table.title and {row["error"].text for row in table.rows} == {"-2.0"}
    assert modelled_tables([r for r in run_records() if r.source != "search"]) == []
    (one,) = modelled_tables([search_record(ARCH), protocol_record(ARCH, mode="sustained")])
    assert one.notes[0] == "Error of the model on this file: 11.1%."


def test_an_order_that_the_model_had_wrong_is_counted():
    slow = search_record(ARCH)
    fast = search_record(Arch(96, 16, 1, 1, 10))
    found = [protocol_record(record.model.arch, mode="sustained") for record in (slow, fast)]
    swapped = replace(slow, latency=replace(slow.latency, median_ms=0.5 * fast.latency.median_ms))
    (table,) = modelled_tables([swapped, fast, *found])
    assert "orders 1 of 1 pairs" in table.notes[0]


def test_a_table_without_a_front_is_no_frontier():
    (table,) = frontier_tables([replace(foreign(), accuracy=None, mask_accuracy=None)])
    assert (
        table.title.startswith("Measured files, no frontier") and table.rows[0]["front"].text == ""
    )
    assert frontier_tables([foreign()])[0].title.startswith("Frontier of measured files")


NAMES = [
    "US$ 5 / CA$ 7 \\frac",
    "<script>alert(1)</script> & <b>",
    "犬と猫 😀",
    "שלום עולם",
    "a_b % #",
    "n" * 500,
    "two\nlines\x07",
]


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.texts = []
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("name", NAMES)
def test_free_text_is_shown_as_written(name, tmp_path):
    """Python's HTML parser reads the name back; the PDF is written and no line of it is wider than
    the page.
    """
    record = measured(model=replace(FOREIGN, name=name), data=replace(MINE, name=name))
    run = written(
        tmp_path,
        [record],
        summary={"title": name, "departures": [name], "checks": [name], "command": name},
    )
    document = report(run)
    document.blocks = [
        block
        for block in document.blocks
        if not (isinstance(block, Grid) and len(block.table.rows) > 10)
    ]
    parser = Words()
    page = write_html(document, tmp_path / "report.html").read_text()
    parser.feed(page)
    assert "script" not in parser.tags and "b" not in parser.tags and "\x07" not in page
    assert sum(name.replace("\x07", "") in text for text in parser.texts) >= 4
    assert all(text_width_pt(line, 9.2) <= WIDTH_PT for line in wrap(name, WIDTH_PT, 9.2))
    assert write_pdf(document, tmp_path / "report.pdf").stat().st_size > 1000


def test_a_table_too_wide_for_the_page_is_cut_between_its_groups():
    (table,) = frontier_tables(three() + [protocol_record(arch, "test") for arch in (ARCH,)])
    wide = [replace(column, label=column.label + " wide") for column in table.columns]
    table.columns = wide
    pieces = parts(table, 420.0, text_width_pt)
    assert len(pieces) > 1
    lead = [column.key for column in wide if not column.group]
    assert all([column.key for column in piece.columns][: len(lead)] == lead for piece in pieces)
    assert [column.key for piece in pieces for column in piece.columns[len(lead) :]] == [
        c.key for c in wide if c.group
    ]
    assert [bool(piece.notes) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert parts(table, 10_000.0, text_width_pt) == [table]


def test_departures_follow_the_settings(tmp_path):
    embedded = " | ".join(departures(EMBEDDED))
    assert (
        "weights that come with the package" in embedded
        and "learning rate 0.0002 (paper: 0.0001)" in embedded
    )
    assert "same objects" not in embedded
    scratch = " | ".join(departures(from_scratch(EMBEDDED)))
    assert (
        "random initial weights" in scratch
        and "learning rate 0.0007" in scratch
        and "come with the package" not in scratch
    )
    file = tmp_path / "mine.toml"
    file.write_text(
        'data = "photos"\nsize = "nano"\nweights = "mine.pth"\n[train]\nlr = 1e-4\nlr_encoder = '
        "1.5e-4\nbatch_size = 128\n"
    )
    mine = campaign(str(file))
    own = " | ".join(departures(mine))
    assert mine.title == "Weight-sharing search on photos" and "file mine.pth" in own
    assert not re.search(r"learning rate|width of the|images per step|package", own)
    file.write_text('base = "coco"\ndata = "photos"\n')
    assert not any("COCO" in sentence for sentence in departures(campaign(str(file))))
    file.write_text('base = "coco"\ndata = "photos"\ndepartures = ["no augmentation"]\n')
    assert departures(campaign(str(file)))[-1] == "no augmentation"


def test_latency_of_a_record_needs_no_protocol(tmp_path):
    bare = replace(foreign(), protocol=None, latency=Latency(3.0, artifact_sha256=SHA))
    assert "1 exported file has both AP and latency" in told(written(tmp_path, [bare]))
