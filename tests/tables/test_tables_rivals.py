"""RF-DETR and rivals at equal latency, from Records with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rfdetr_repro.records.record import (
    RIVALS,
    Accuracy,
    ArtifactId,
    Cost,
    DataId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.command import build_tables
from rfdetr_repro.tables.rivals import rivals_tables
from rfdetr_repro.tables.table import Table

FAST = Arch(96, 16, 1, 2, 25)
SLOW = Arch(128, 16, 1, 2, 25)
MACHINE = Machine("a processor", 2, 16.0, "Linux")


def records(
    family: str,
    ms: float,
    aps: dict[str, list[float]],
    arch: Arch | None = None,
    name: str = "D-FINE",
) -> list[Record]:
    """One Record per split and seed."""
    found = []
    for split, values in aps.items():
        for seed, ap in enumerate(values):
            sha = f"{family}{arch and arch.key}{seed}".ljust(64, "0")
            found.append(
                Record(
                    "protocol",
                    ModelId(family, name, size="pico", variant=f"seed {seed}", arch=arch),
                    DataId("cells", split, "b" * 64, 40),
                    ArtifactId(sha, sha, "onnxruntime-cpu", "fp32", 1000),
                    Cost(2_000_000),
                    Accuracy(ap, artifact_sha256=sha),
                    latency=Latency(ms + seed / 100, num_samples=64, artifact_sha256=sha),
                    protocol=Protocol(threads=1),
                    machine=MACHINE,
                    campaign=RIVALS,
                    seed=seed,
                )
            )
    return found


def ours(ms: float, arch: Arch, val: list[float], test: list[float]) -> list[Record]:
    return records("rfdetr", ms, {"val": val, "test": test}, arch, "RF-DETR")


def verdict_of(found: list[Record]) -> dict[str, str]:
    _, verdicts = rivals_tables(found)
    [row] = verdicts.rows
    return {key: cell.text for key, cell in row.items()}


SPREAD = (-0.01, 0.0, 0.01)


def around(ap: float) -> list[float]:
    return [ap + step for step in SPREAD]


@pytest.mark.parametrize(
    ("rival", "word"),
    [
        (around(0.20), "RF-DETR is more accurate"),
        (around(0.60), "D-FINE pico is more accurate"),
        ([0.30, 0.45, 0.40], "no difference is shown"),
        ([0.20], "not decided: one seed"),
    ],
)
def test_the_answer_is_printed_whichever_way_it_falls(rival: list[float], word: str) -> None:
    found = [
        *ours(5.0, FAST, around(0.4), around(0.4)),
        *records("dfine", 5.1, {"val": rival, "test": rival}),
    ]
    assert verdict_of(found)["verdict"] == word


def test_the_difference_is_of_the_means_in_points() -> None:
    found = [
        *ours(5.0, FAST, around(0.1), around(0.45)),
        *records("dfine", 5.1, {"val": around(0.9), "test": around(0.40)}),
    ]
    row = verdict_of(found)
    assert (row["our_ap"], row["rival_ap"], row["difference"]) == ("45.0", "40.0", "+5.0")
    assert row["ci"] == "+2.7 to +7.3"  # 2.776 * sqrt(2 / 3) points, t with 4 degrees of freedom


def test_the_architecture_is_chosen_on_val_and_compared_on_test() -> None:
    """FAST is better on test, SLOW on val; both are fast enough."""
    found = [
        *ours(4.0, FAST, around(0.2), around(0.8)),
        *ours(5.0, SLOW, around(0.3), around(0.1)),
        *records("dfine", 5.0, {"val": around(0.5), "test": around(0.5)}),
    ]
    row = verdict_of(found)
    assert row["arch"] == SLOW.key and row["verdict"] == "D-FINE pico is more accurate"


@pytest.mark.parametrize(("ms", "arch"), [(9.54, SLOW.key), (9.50, FAST.key), (3.0, "")])
def test_a_slower_architecture_takes_part_up_to_the_tolerance(ms: float, arch: str) -> None:
    found = [
        *ours(4.0, FAST, around(0.2), around(0.2)),
        *ours(10.0, SLOW, around(0.6), around(0.6)),
        *records("dfine", ms, {"val": around(0.4), "test": around(0.4)}),
    ]
    row = verdict_of(found)
    assert row.get("arch", "") == arch
    assert (row["verdict"] == "no RF-DETR is as fast") == (arch == "")


def test_without_a_test_split_the_note_says_whom_the_choice_favours() -> None:
    found = [
        *records("rfdetr", 5.0, {"val": around(0.4)}, FAST, "RF-DETR"),
        *records("dfine", 5.1, {"val": around(0.2)}),
    ]
    models, verdicts = rivals_tables(found)
    assert verdicts.title.endswith("AP on val")
    assert any("the choice favours RF-DETR" in note for note in verdicts.notes)
    assert [row["val_ap"].text for row in models.rows] == ["40.0", "20.0"]


def test_other_protocols_data_and_campaigns_are_not_mixed() -> None:
    first = ours(5.0, FAST, around(0.4), around(0.4))
    quick = [replace(one, protocol=Protocol(threads=1, quick=True)) for one in first]
    other = [replace(one, data=replace(one.data, name="coco")) for one in first]  # type: ignore[type-var]
    found = [replace(one, campaign="search") for one in first]
    assert rivals_tables(found) == []
    tables = rivals_tables([*first, *quick, *other])
    titles = [table.title for table in tables if table.title.startswith("Trained alike")]
    assert len(titles) == 3 == len(set(titles))


def test_two_trainings_with_one_seed_are_refused() -> None:
    """Their budgets may differ, which a Record does not say."""
    first = ours(5.0, FAST, around(0.4), around(0.4))
    again = [
        replace(one, model=replace(one.model, checkpoint_sha256="c" * 64), started_at="later")
        for one in ours(5.0, FAST, around(0.6), around(0.6))
    ]
    with pytest.raises(InputError, match="two trainings of RF-DETR pico on cells with seed 0"):
        rivals_tables([*first, *again])


def test_the_tables_command_prints_them() -> None:
    found = [
        *ours(5.0, FAST, around(0.4), around(0.4)),
        *records("lwdetr", 6.0, {"val": around(0.2), "test": around(0.2)}, name="LW-DETR"),
    ]
    tables: list[Table] = build_tables("rivals", found)
    assert [table.name for table in tables] == ["rivals", "rivals"]
    assert tables[0].rows[0]["seeds"].value == 3
    assert tables[0].rows[1]["spread"].text == "6.00 to 6.02"
