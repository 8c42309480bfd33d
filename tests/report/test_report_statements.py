"""Every sentence of a report follows from the Records: folders of odd kinds, and words that none of
them may hold.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from samples_intervals import sure, three
from samples_records import SHA, measured
from samples_report import everything
from samples_run import protocol_record, run_records, search_record, sha, training_rows

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.plots.pareto import pareto_panels
from rfdetr_repro.records.record import MEAN, Cost, DataId, Latency, Machine, ModelId, Record
from rfdetr_repro.report.build import build_report
from rfdetr_repro.report.content import report
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
        [
            "For 1 model file, AP and latency were measured on the same file",
            "AP was measured on my parts.",
        ],
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
            "For 1 file, only latency was measured (the weights are random).",
            "no measured accuracy",
        ],
        (
            *SUPERNET,
            "AP and latency were",
            "AP was measured on",
            "Confirmed frontier",
            "highest AP on val:",
        ),
    ),
    "latency only on named data": (
        [replace(foreign(), accuracy=None, mask_accuracy=None)],
        ["only latency was measured.", "This run holds no measured accuracy."],
        (*SUPERNET, "AP was measured on my parts"),
    ),
    "AP only": (
        [foreign(latency=None, protocol=None)],
        ["For 1 file, only AP was measured."],
        (*SUPERNET, "Latency was measured in"),
    ),
    "search without confirmation": (
        [search_record(arch) for arch in (ARCH, Arch(96, 16, 1, 1, 10))],
        ["2 configurations of one supernet", "modelled, not measured", "NOT CONFIRMED"],
        (
            "every configuration",
            "model file",
            "Confirmed frontier",
            "was trained",
            "highest AP on val:",
        ),
    ),
    "boxes only": (
        [replace(protocol_record(ARCH), mask_accuracy=None)],
        ["AP is box AP; masks were not evaluated."],
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
        ["paced 30 fps", "1 Record of a mode other than the usual", "is part of no frontier"],
        (*SUPERNET, "buffered 200 ms", "Confirmed frontier", "latency, buffered"),
    ),
    "means": (
        [
            foreign(
                DataId("rf100-vl", "test, mean over 100 data sets"), source=MEAN, parts=("a", "b")
            )
        ],
        ["1 Record is a mean over several data sets."],
        (*SUPERNET, "model file", "Confirmed frontier"),
    ),
    "counts": (
        [Record("cost", FOREIGN, cost=Cost(5, 1e9, counter="onnx", form="deployed"))],
        ["1 Record counts parameters or operations.", "no measured accuracy"],
        (*SUPERNET, "model file"),
    ),
    "published": (
        published_records("2")[:3],
        ["3 Records hold published numbers"],
        (*SUPERNET, "AP was measured on"),
    ),
    "empty store": (
        [],
        ["The folder holds no measurements."],
        (*SUPERNET, "model file", "frontier on"),
    ),
    "no store": (
        None,
        ["The folder holds no measurements."],
        (*SUPERNET, "model file", "frontier on"),
    ),
    "test split only": (
        [foreign(replace(MINE, split="test"))],
        ["For 1 model file, AP and latency"],
        (*SUPERNET, "highest AP on val:"),
    ),
    "two machines": (
        [foreign(), foreign(machine=Machine("Another CPU", 8, 32.0, "Linux 6.1"))],
        ["The latencies come from 2 machines; no frontier mixes two of them.", "Another CPU"],
        SUPERNET,
    ),
    "one machine twice": (
        [protocol_record(ARCH), protocol_record(ARCH, "test")],
        ["For 1 model file, AP and latency"],
        ("The latencies come from",),
    ),
    "composed and real": (
        [foreign(), protocol_record(ARCH)],
        [
            "AP was measured on my parts.",
            "AP on embedded is AP on composed (synthetic) images: it is not COCO AP.",
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
    opening = words.partition("Not in this run")[0] + document.footer
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
    assert "Not distinguishable from r128-p16-w1-d1-q15" in words and "Better than" not in words
    (tmp_path / "b").mkdir()
    clear = [*three()[:1], sure(protocol_record(Arch(160, 16, 1, 2, 25)), 0.6, 0.55, 0.65)]
    assert "Better than the other file: the 95 % interval" in told(written(tmp_path / "b", clear))
    (tmp_path / "c").mkdir()
    old = [protocol_record(arch) for arch in (ARCH, Arch(96, 16, 1, 1, 10))]
    words = told(written(tmp_path / "c", old))
    assert "is unknown: no results per image are stored" in words and "interval unknown" in words
    (tmp_path / "d").mkdir()
    assert "certainty" not in told(written(tmp_path / "d", old[:1]))


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
    assert not re.search(r"learning rate 0|width of the|images per step|package", own)
    file.write_text('base = "coco"\ndata = "photos"\n')
    assert not any("COCO" in sentence for sentence in departures(campaign(str(file))))
    file.write_text('base = "coco"\ndata = "photos"\ndepartures = ["no augmentation"]\n')
    assert departures(campaign(str(file)))[-1] == "no augmentation"


def test_latency_of_a_record_needs_no_protocol(tmp_path):
    bare = replace(foreign(), protocol=None, latency=Latency(3.0, artifact_sha256=SHA))
    assert "For 1 model file, AP and latency were measured on the same file" in told(
        written(tmp_path, [bare])
    )
