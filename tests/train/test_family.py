"""Patch sizes that training never drew: which they are, their Records, and what they stand
beside.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from rfdetr_repro.records.record import NEVER_TRAINED, Accuracy, DataId, Latency, ModelId, Record
from rfdetr_repro.search.family import between, never_trained
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PAPER_SPACE, PICO_SPACE
from rfdetr_repro.tables.campaign import campaign_tables
from rfdetr_repro.tables.family import family_table

SPACE = SearchSpace((96, 128), (12, 16), (1,), (0, 2), (10, 25))


def record(arch: Arch, ap: float, variant: str | None = None) -> Record:
    model = ModelId("rfdetr", f"rfdetr-{arch.key}", arch=arch, variant=variant)
    return Record(
        "search",
        model,
        data=DataId("embedded", "val"),
        accuracy=Accuracy(ap, min(1.0, 2 * ap)),
        latency=Latency(1.0, "modelled"),
    )


def test_only_patches_that_the_space_lacks() -> None:
    archs = never_trained(SPACE, [12, 14, 18], [128])
    assert {arch.patch for arch in archs} == {14, 18} and {arch.resolution for arch in archs} == {
        128
    }
    assert {(arch.decoder_layers, arch.queries) for arch in archs} == {(2, 25)}
    with pytest.raises(InputError, match="all these patch sizes were trained"):
        never_trained(SPACE, [16])
    assert not set(between(PICO_SPACE)) & set(PICO_SPACE.patches) and 14 in between(PICO_SPACE)
    assert [
        arch.patch
        for arch in never_trained(replace(PAPER_SPACE, windows=(1,)), [27, 21, 18], [640])
    ] == [27, 21, 18]


def test_each_stands_beside_the_trained_one_with_as_many_tokens() -> None:
    same = Arch(96, 12, 1, 2, 25)
    other = Arch(128, 12, 1, 2, 25)
    fresh = Arch(128, 16, 1, 2, 25)  # 8 x 8 tokens, as 96 / 12
    trained = [record(same, 0.20), record(other, 0.30), record(replace(same, queries=10), 0.1)]
    (row,) = family_table([record(fresh, 0.19, NEVER_TRAINED)], trained).rows
    assert (
        row["like"].text == same.key and row["like_ap"].text == "20.0" and row["gap"].text == "-1.0"
    )
    (alone,) = family_table([record(Arch(128, 20, 1, 2, 25), 0.19, NEVER_TRAINED)], trained).rows
    assert "like" not in alone or alone["like"].text in ("", "-")


def test_they_stay_out_of_the_frontier() -> None:
    trained = record(Arch(96, 12, 1, 2, 25), 0.2)
    fresh = record(Arch(96, 14, 1, 2, 25), 0.9, NEVER_TRAINED)
    (table,) = campaign_tables([trained, fresh])
    assert [row["arch"].text for row in table.rows] == ["r96-p12-w1-d2-q25"]
