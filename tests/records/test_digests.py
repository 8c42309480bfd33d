"""Digests of stored Records: an altered result is found by every reader, an older line is said to
be unverified.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from samples_run import SPACE, protocol_record, run_records

from rfdetr_repro.bench.command import compare, intervals
from rfdetr_repro.records import seal
from rfdetr_repro.records.record import Accuracy, ModelId, Record
from rfdetr_repro.records.store import Store, read_stores
from rfdetr_repro.report.run import read_run
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.tables.command import main as tables_main


def changed(line: str, place: str, value: object) -> str:
    """The line with the value at ``place``, such as "accuracy.ap", replaced, or removed where it is
    None.
    """
    fields = json.loads(line)
    *parents, last = place.split(".")
    inner = fields
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(fields)


def without_digest(line: str) -> str:
    return changed(line, "digest", None)


ARCHS = list(SPACE)
LINE = protocol_record(ARCHS[0]).to_json()
SHA256 = json.loads(LINE)["artifact"]["sha256"]
STORES = sorted((Path(__file__).resolve().parents[2] / "results").glob("*.jsonl"))


def test_the_digest_is_the_documented_one():
    """Computed here from the docstring alone, for one line."""
    fields = json.loads(LINE)
    record_id = fields.pop("id")
    digest = fields.pop("digest")
    for name, value in {
        "all": fields,
        "accuracy": fields["accuracy"],
        "latency": fields["latency"],
    }.items():
        text = json.dumps([record_id, name, value], sort_keys=True, separators=(",", ":"))
        assert digest[name] == hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("accuracy.ap", 0.99, "accuracy of"),
        ("accuracy.ap_low", 0.0001, "accuracy of"),
        ("accuracy.ap50", None, "accuracy of"),
        ("accuracy", None, "accuracy of"),
        ("latency.median_ms", 1.25, "latency of"),
        ("latency.throttled", "no", "latency of"),
        (
            "mask_accuracy",
            {"ap": 0.9, "max_dets": 100, "artifact_sha256": SHA256},
            "mask_accuracy of",
        ),
        ("env", {"torch": "9"}, "a field other than the results"),
        ("command", "another", "a field other than the results"),
        ("machine.memory_gib", 1.5, "a field other than the results"),
    ],
)
def test_an_altered_record_is_refused_and_the_field_named(place, value, told, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join([run_records()[0].to_json(), changed(LINE, place, value)]) + "\n")
    with pytest.raises(InputError, match=told) as caught:
        Store(path).read()
    assert (
        f"{path.name}:2" in str(caught.value)
        and "altered" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_result_of_another_record_is_an_alteration():
    one, other = (json.loads(protocol_record(arch).to_json()) for arch in ARCHS[:2])
    other["accuracy"], other["digest"]["accuracy"] = one["accuracy"], one["digest"]["accuracy"]
    with pytest.raises(InputError, match="accuracy|altered"):
        Record.from_json(json.dumps(other))


@pytest.mark.parametrize("digest", [1, "x", [], {}, {"accuracy": "0" * 16}, {"all": 3}])
def test_a_broken_digest_is_refused(digest):
    with pytest.raises(InputError, match="digest"):
        Record.from_json(changed(LINE, "digest", digest))


def test_white_space_and_the_order_of_keys_do_not_matter():
    fields = json.loads(LINE)
    turned = json.dumps(dict(reversed(fields.items())), indent=1, ensure_ascii=False).replace(
        "\n", " "
    )
    assert Record.from_json(turned).to_json() == LINE


@pytest.mark.parametrize("ap", [1, 0, 1.0, 0.1 + 0.2, 5e-324, 1 / 3])
def test_numbers_survive(ap):
    record = Record(
        "search", ModelId("rfdetr", "naïve \u2028 名"), accuracy=Accuracy(ap), env={"é": "\ud800"}
    )
    again = Record.from_json(record.to_json())
    assert again == record and not again.unverified


def test_an_older_line_is_unverified_keeps_its_id_and_stays_so():
    record = Record.from_json(LINE)
    old = Record.from_json(without_digest(LINE))
    assert old == record and old.id == record.id and old.unverified and not record.unverified
    again = replace(old, seed=3)
    assert again.unverified and "digest" not in json.loads(again.to_json())
    assert "unverified" not in json.loads(again.to_json())


def test_a_line_cannot_say_itself_that_it_is_unverified():
    with pytest.raises(InputError, match="unverified"):
        Record.from_json(changed(without_digest(LINE), "unverified", False))


def old_store(folder: Path) -> Path:
    path = folder / "records.jsonl"
    lines = [record.to_json() for record in run_records()]
    path.write_text("\n".join([*map(without_digest, lines[:3]), *lines[3:]]) + "\n")
    return path


def test_readers_say_how_many_are_unverified(tmp_path, capsys):
    path = old_store(tmp_path)
    total = len(run_records())
    readers = [
        lambda: read_stores([path]),
        lambda: read_run(tmp_path),
        lambda: run_main(compare.main, [str(path), str(path)]),
        lambda: run_main(intervals.main, [str(path)]),
        lambda: run_main(tables_main, ["--table", "frontier", "--records", str(path)]),
    ]
    for reader in readers:
        reader()
        told = capsys.readouterr().err
        assert f"unverified: 3 of {total} Records have no digest" in told and told.count("\n") == 1
    Store(tmp_path / "new.jsonl").extend(run_records())
    read_stores([tmp_path / "new.jsonl"])
    assert "unverified" not in capsys.readouterr().err


def test_seal_counts_and_copies(tmp_path, capsys):
    path = old_store(tmp_path)
    total = len(run_records())
    out = tmp_path / "sealed.jsonl"
    before = path.read_bytes()
    assert run_main(seal.main, [str(path)]) == 0
    assert f"3 {seal.WITHOUT}, {total - 3} {seal.VERIFIED}" in capsys.readouterr().out
    assert run_main(seal.main, [str(path), "--out", str(out)]) == 0
    assert path.read_bytes() == before
    old = before.splitlines()
    new = out.read_bytes().splitlines()
    assert new[3:] == old[3:]
    for was, is_now in zip(old[:3], new[:3], strict=True):
        fields = json.loads(is_now)
        assert fields.pop("digest")["sealed_at"].startswith("20")
        assert fields == json.loads(was)
    assert Store(out).read() == Store(path).read() and not any(
        record.unverified for record in Store(out).read()
    )
    capsys.readouterr()
    assert run_main(seal.main, [str(out)]) == 0
    assert f"3 {seal.LATER}" in capsys.readouterr().out
    assert run_main(seal.main, [str(path), "--out", str(out)]) == 2
    assert run_main(seal.main, [str(tmp_path / "none.jsonl")]) == 2
    assert run_main(seal.main, [str(path), str(out), "--out", str(tmp_path / "x.jsonl")]) == 2


def test_seal_vouches_for_nothing_that_was_altered(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    path.write_text(changed(LINE, "accuracy.ap", 0.9) + "\n")
    assert run_main(seal.main, [str(path), "--out", str(tmp_path / "new.jsonl")]) == 2
    assert "altered" in capsys.readouterr().err and not (tmp_path / "new.jsonl").exists()


def test_a_line_that_is_no_utf8_is_no_record(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(
        without_digest(changed(LINE, "command", "caf")).encode().replace(b"caf", b"caf\xe9") + b"\n"
    )
    with pytest.raises(InputError, match="s.jsonl:1"):
        Store(path).read()


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.name)
def test_the_stores_of_the_repository_are_unaltered(path):
    counts = seal.states(path)
    assert counts and not counts[seal.WITHOUT]
