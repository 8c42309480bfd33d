"""The catalogue of claims, the Records that come with the package, and what the command prints."""

from __future__ import annotations

import csv
import io
import json

import pytest
from samples_claims import study

from rfdetr_repro.claims.catalog import CLAIMS
from rfdetr_repro.claims.pairs import SHARED
from rfdetr_repro.claims.studies import ALONE, NO_EMA, STUDIES
from rfdetr_repro.claims.table import (
    claims_table,
    commands_lines,
    findings_table,
    summary_table,
)
from rfdetr_repro.claims.verdicts import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OVER_IMAGES,
    UNDECIDED,
    judged,
)
from rfdetr_repro.claims_command import main
from rfdetr_repro.cli import program_of
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.presets import PICO_WEIGHTS
from rfdetr_repro.spec.train_config import TrainConfig, with_settings
from rfdetr_repro.tables.command import load_records


def test_without_records_every_claim_is_not_run_and_says_what_runs_it():
    found = judged([])
    assert [one.word for one in found] == [NOT_RUN] * len(CLAIMS)
    lines = commands_lines(found)
    assert len(lines) == sum(len(claim.comparisons) for claim in CLAIMS)
    assert all(line.partition(": ")[2] for line in lines)


def test_ids_are_unique_and_every_command_can_be_parsed():
    ids = [part.id for claim in CLAIMS for part in claim.comparisons]
    assert len(set(ids)) == len(ids) and [claim.id for claim in CLAIMS] == [
        str(number) for number in range(1, 12)
    ]
    for claim in CLAIMS:
        for part in claim.comparisons:
            assert part.pairing is not None or part.missing
            assert set(part.studies) <= set(STUDIES)
            if part.command:
                program, verb, *words = part.command.split()
                flags = {
                    flag
                    for one in program_of(verb).parser()._actions
                    for flag in one.option_strings
                }
                assert program == "rfdetr-repro"
                assert {word for word in words if word.startswith("--")} <= flags


def test_every_changed_recipe_is_a_setting_of_training():
    for one in STUDIES["recipe"].trained:
        assert isinstance(with_settings(TrainConfig(), one.settings), TrainConfig)
    assert NO_EMA in {one.variant for one in STUDIES["recipe"].trained}


def test_the_records_of_the_package_answer_some_claims():
    found = {one.claim.id: one for one in judged(load_records(None))}
    depth = [one for one in found["4"].findings if one.comparison.id == "4.1"]
    assert {(one.scale.data, one.scale.split): one.word for one in depth} == {
        ("embedded", "val"): FAILS,
        ("embedded", "test"): UNDECIDED,
        ("embedded-thermal", "val"): UNDECIDED,
    }
    (short,) = [one.scale.training for one in depth if one.scale.training]
    digits = sha256_file(PICO_WEIGHTS)[:8]
    assert short == f"500 steps from the pico backbone {digits}"  # of the present weights
    tuned = [one for one in found["3"].findings if one.comparison.id == "3.1"]
    assert {one.word for one in tuned} == {UNDECIDED} and all(one.effect.value > 0 for one in tuned)
    (stretched,) = [one for one in found["5"].findings if one.comparison.id == "5.1"]
    assert stretched.word == HOLDS and stretched.pairs == 3 and found["10"].word == FAILS
    (order,) = [one for one in found["8"].findings if one.comparison.id == "8.4"]
    assert order.word == HOLDS and order.effect.over == OVER_IMAGES


def test_the_command_prints_every_format(capsys, tmp_path):
    Store(tmp_path / "mine.jsonl").extend(
        study(0.4 + 0.01 * seed * (variant == ALONE) + 0.06 * (variant == SHARED), variant, seed)
        for variant in (ALONE, SHARED)
        for seed in range(3)
    )
    given = ["--records", str(tmp_path), "--claim", "1"]
    assert main([*given, "--wide", "--no-pager"]) == 0
    text = capsys.readouterr().out
    assert "nothing about COCO" in text and "3 training seeds" in text and HOLDS in text
    main([*given, "--format", "csv"])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["effect"]) == pytest.approx(5) and row["verdict"] == HOLDS
    assert row["section"].startswith("1. Weight sharing")
    main([*given, "--format", "json"])
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert table["rows"][0]["id"] == "1.1"
    main([*given, "--format", "markdown"])
    assert capsys.readouterr().out.startswith("### The claims of the paper")
    main(["--stated", "--format", "csv"])
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--claim", "12"], "unknown claim"),
        (["--claim", "4.9"], "choose one of 4.1"),
        (["--stated", "--claim", "1"], "no meaning"),
        (["--records", "nowhere.jsonl"], "cannot read"),
    ],
)
def test_bad_arguments_are_one_line(words, said):
    with pytest.raises(InputError, match=said):
        main(words)


def test_the_table_has_a_row_for_each_part():
    for table in (claims_table(judged([])), findings_table(judged([]))):
        assert len(table.rows) == sum(len(claim.comparisons) for claim in CLAIMS)
    assert [row["claim"].text for row in summary_table(judged([])).rows] == [
        claim.id for claim in CLAIMS
    ]
