"""Store: whole lines or none, later lines win, and a killed writer costs at most its last line."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from samples_run import SPACE, protocol_record, run_records, search_record

from rfdetr_repro.records import store as store_module
from rfdetr_repro.records.record import Latency
from rfdetr_repro.records.store import Store, read_stores
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

RECORDS = [search_record(arch) for arch in list(SPACE)[:4]]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "deep" / "records.jsonl")
    store.extend(RECORDS)
    return store


def test_what_was_written_is_read_in_order(store):
    assert store.read() == RECORDS
    assert store.ids() == {record.id for record in RECORDS}
    assert Store(store.path.with_name("absent.jsonl")).read() == []


def test_extend_equals_appending_one_by_one(store, tmp_path):
    other = Store(tmp_path / "other.jsonl")
    for record in RECORDS:
        assert other.append(record) is record
    assert other.path.read_bytes() == store.path.read_bytes()


def test_of_two_lines_with_one_id_the_later_wins_and_both_stay(store):
    later = dataclasses.replace(RECORDS[1], latency=Latency(99.0, "modelled"))
    store.append(later)
    assert store.read() == [RECORDS[0], later, *RECORDS[2:]]
    assert store.path.read_bytes().count(b"\n") == len(RECORDS) + 1


@pytest.mark.parametrize(
    "torn", [b"{", b'{"id": "123", "model": {"na', b"x" * 3 * store_module._BLOCK]
)
def test_a_torn_last_line_is_ignored_and_cut_at_the_next_append(store, torn):
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + torn)
    assert store.read() == RECORDS
    added = store.append(protocol_record(Arch(128, 16, 1, 2, 25)))
    assert store.path.read_bytes() == whole + added.to_json().encode() + b"\n"


def test_a_reader_of_stores_hears_of_a_torn_line(store, capsys):
    assert read_stores([store.path]) == RECORDS and capsys.readouterr().err == ""
    store.path.write_bytes(store.path.read_bytes()[:-9])
    assert read_stores([store.path]) == RECORDS[:-1]
    told = capsys.readouterr().err
    assert told.startswith(f"{store.path}: its last line is unfinished") and told.count("\n") == 1


@pytest.mark.parametrize(
    "size", [1, store_module._BLOCK - 1, store_module._BLOCK, store_module._BLOCK + 1]
)
def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path, size):
    store = Store(tmp_path / "records.jsonl")
    store.path.write_bytes((b'{"' + b"x" * size)[:size])
    store.append(RECORDS[0])
    assert store.read() == [RECORDS[0]]


def test_an_append_reads_only_the_tail(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    path.write_bytes((RECORDS[0].to_json() + "\n").encode() * 2000)
    read = []

    class Spy:
        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def read(self, size=-1):
            content = self.stream.read(size)
            read.append(len(content))
            return content

    original = store_module._cut_torn_line
    monkeypatch.setattr(store_module, "_cut_torn_line", lambda stream: original(Spy(stream)))
    Store(path).append(RECORDS[1])
    assert read and sum(read) <= 2 * store_module._BLOCK


@pytest.mark.parametrize("line", [b"not json", b'{"schema": 1}', b"\xff\xfe", b"[1, 2]"])
def test_a_corrupt_line_in_the_middle_names_file_and_line(store, line):
    lines = store.path.read_bytes().splitlines()
    store.path.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]) + b"\n")
    with pytest.raises(InputError) as caught:
        store.read()
    assert f"{store.path}:3" in str(caught.value) and "\n" not in str(caught.value)


def test_empty_lines_do_no_harm(store):
    store.path.write_bytes(b"\n" + store.path.read_bytes() + b"\n")
    assert store.read() == RECORDS


HALVES = """
import os, sys
from rfdetr_repro.records import store as store_module
from rfdetr_repro.spec import side_by_side

side_by_side.can_fork = lambda: sys.argv[2] == "forks"
alone = os.getpid()
seen = []
plain = store_module.Store._records

def noted(self, lines, start):
    if os.getpid() == alone:
        seen.append(start)
    return plain(self, lines, start)

store_module.Store._records = noted
store_module._MANY_LINES = 2
try:
    records = store_module.Store(sys.argv[1]).read()
except Exception as error:
    print(error)
else:
    for record in records:
        print(record.unverified, record.to_json())
print(len(seen), file=sys.stderr)
"""


@pytest.mark.parametrize("forks", [True, False])
def test_two_processes_read_a_long_store_as_one_does(store, forks):
    """In a program of its own: the process of the tests has threads and must not fork."""
    if forks and sys.platform != "linux":
        pytest.skip("only Linux forks")

    def read() -> list[str]:
        command = [sys.executable, "-c", HALVES, str(store.path), "forks" if forks else "alone"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        here = int(done.stderr)  # halves that the program's first process read
        assert here == 1 if forks else here >= 1
        return done.stdout.splitlines()

    later = dataclasses.replace(RECORDS[0], latency=Latency(99.0, "modelled"))
    assert later.id == RECORDS[0].id
    store.append(later)
    old = json.loads(RECORDS[3].to_json()) | {"seed": 7}
    store.path.write_text(
        store.path.read_text()
        + json.dumps({k: v for k, v in old.items() if k not in ("id", "digest")})
        + "\n"
    )
    alone = store.read()
    assert alone[0] == later
    assert read() == [f"{record.unverified} {record.to_json()}" for record in alone]
    lines = store.path.read_bytes().splitlines()
    for place in (1, 4):  # of either half; the line of the file is named
        broken = [
            *lines[:place],
            lines[place].replace(b"modelled", b"measured"),
            *lines[place + 1 :],
        ]
        store.path.write_bytes(b"\n".join(broken) + b"\n")
        (line,) = read()
        assert f"{store.path}:{place + 1}" in line
        assert "was altered" in line


def test_a_byte_order_mark_that_an_editor_left_does_no_harm(store):
    store.path.write_bytes(b"\xef\xbb\xbf" + store.path.read_bytes())
    assert store.read() == RECORDS


def test_reading_leaves_the_collector_as_it_was(store):
    assert gc.isenabled() and store.read() and gc.isenabled()
    gc.disable()
    try:
        assert store.read() and not gc.isenabled()
    finally:
        gc.enable()
    store.path.write_bytes(b"not json\n" + store.path.read_bytes())
    with pytest.raises(InputError):
        store.read()
    assert gc.isenabled()


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Store(tmp_path / "file" / "records.jsonl").append(RECORDS[0])


def test_read_stores_takes_files_campaign_folders_and_run_folders(tmp_path):
    Store(tmp_path / "results" / "a.jsonl").extend(RECORDS[:1])
    Store(tmp_path / "results" / "b.jsonl").extend(RECORDS[1:2])
    Store(tmp_path / "results" / "run" / "records.jsonl").extend(RECORDS[2:])
    (tmp_path / "results" / "run" / "train_log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert read_stores([tmp_path / "results"]) == RECORDS
    assert read_stores([tmp_path / "results" / "run"]) == RECORDS[2:]
    assert (
        read_stores([tmp_path / "results" / "a.jsonl", tmp_path / "results" / "b.jsonl"])
        == RECORDS[:2]
    )
    with pytest.raises(InputError, match="no such records"):
        read_stores([tmp_path / "absent"])


WRITER = """
import sys
from samples_run import run_records
from rfdetr_repro.records.store import Store
store = Store(sys.argv[1])
records = run_records()
print("ready", flush=True)
while True:
    for record in records:
        store.append(record)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_writer_loses_at_most_its_last_line(tmp_path):
    path = tmp_path / "records.jsonl"
    root = Path(__file__).parents[2]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests" / "support")]),
    }
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=env
        )
        before = path.stat().st_size if path.exists() else 0
        writer.stdout.readline()
        deadline = time.monotonic() + 120  # at most
        while (
            not path.exists() or path.stat().st_size < before + 5000
        ) and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        complete = path.read_bytes().count(b"\n")
        assert complete >= 3
        found = Store(path).read()
        expected = [record.id for record in run_records()]
        assert [record.id for record in found] == expected[: len(found)]
    Store(path).append(RECORDS[0])
    assert path.read_bytes().endswith(RECORDS[0].to_json().encode() + b"\n")
    assert path.read_bytes().count(b"\n") == complete + 1


def test_the_committed_records_are_read() -> None:
    """An id that changes would make every stored Record look altered."""
    committed = sorted((Path(__file__).resolve().parents[2] / "results").glob("*.jsonl"))
    assert committed and all(Store(path).read() for path in committed)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"step": 10, "loss": 1.5}\n', "the log of a training run"),
        (b"<!DOCTYPE html>\n<html>\n", "not a JSON object"),
        (b"[1, 2]\n", "not a JSON object"),
        (b"shopping list", "not a JSON object"),
        (bytes(4096), "no text"),
    ],
)
def test_a_file_of_something_else_is_called_so(content: bytes, told: str, tmp_path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"not a store of Records: .*{told}"):
        read_stores([file])


def test_a_folder_of_runs_is_read_by_its_stores(tmp_path) -> None:
    """A run that has been searched, one that has been trained only, and a store of another name."""
    for name in ("searched", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train_log.jsonl").write_text('{"step": 10, "loss": 1.5}\n')
    Store(tmp_path / "searched" / "records.jsonl").extend(RECORDS[:2])
    Store(tmp_path / "other.jsonl").extend(RECORDS[2:3])
    assert sorted(record.id for record in read_stores([tmp_path])) == sorted(
        record.id for record in RECORDS[:3]
    )


def test_a_folder_of_too_many_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rfdetr_repro.spec.files.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(InputError, match="more than 3 files"):
        read_stores([tmp_path])
