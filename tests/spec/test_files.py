"""Files are whole or absent, links stay links, other people's files stay as they are, and readers
never wait for ever.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples_run import run_records

from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERNAL,
    LONGEST_LINE,
    InputError,
    run_main,
)
from rfdetr_repro.spec.files import (
    UNFINISHED,
    atomic_path,
    open_input,
    parse_json,
    read_input,
    read_json,
    remove_unfinished,
    write_atomic,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_killed_writer_leaves_nothing_that_a_reader_takes_for_a_result(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from rfdetr_repro.spec.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("val.png", "records.jsonl", "model.onnx", "model.json"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], cwd=ROOT, check=False)
    left = list(tmp_path.iterdir())
    assert len(left) == 4 and {path.suffix for path in left} == {UNFINISHED}
    assert not [
        path
        for ending in ("png", "jsonl", "onnx", "json")
        for path in tmp_path.rglob(f"*.{ending}")
    ]
    assert sorted(remove_unfinished(tmp_path)) == sorted(left) and not list(tmp_path.iterdir())


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.json"
    target.parent.mkdir()
    target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(target)
    write_atomic(link, "new")
    assert (
        link.is_symlink()
        and target.read_text() == "new"
        and [path.name for path in target.parent.iterdir()] == ["real.json"]
    )


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "nul", "long", "loop"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "nul":
        path = tmp_path / "a\0b"
    elif kind == "long":
        path = tmp_path / ("n" * 300)
    else:
        path.symlink_to(path)
    with pytest.raises(InputError, match="cannot write") as caught:
        write_atomic(path, "text")
    assert len(str(caught.value)) <= LONGEST_LINE
    with pytest.raises(InputError, match="cannot write"):
        Store(path).append(run_records()[0])
    assert not list(tmp_path.rglob(f"*{UNFINISHED}"))


def test_a_file_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(b"12345")
    assert read_input(path, 5) == b"12345"
    with pytest.raises(InputError, match="more than 0 MiB"):
        read_input(path, 4)
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk
    for read in (read_input, read_json, lambda path: Store(path).read()):
        with pytest.raises(InputError, match=r"more than 1024 MiB.*in\.json"):
            read(path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "missing", "nul"])
def test_reading_never_waits_for_ever(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "nul":
        path = tmp_path / "a\0b"
    with pytest.raises(InputError, match="cannot read"), open_input(path):
        pass


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 5_000, "[NaN]", "[-Infinity]", "[1e999]", "{", b"\xff", b"\xff\xfe1\x00"],
)
def test_unusable_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_a_key_that_occurs_twice_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key 'a' occurs twice"):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="not usable JSON .key 'a' occurs twice"):
        read_json(tmp_path / "a.json")
    assert parse_json('[{"a": 1}, {"a": 1, "b": {"a": 2}}]') == [{"a": 1}, {"a": 1, "b": {"a": 2}}]


WRITER = """
import sys
from samples_run import run_records
from rfdetr_repro.records.store import Store
from dataclasses import replace
record = run_records()[0]
for index in range(int(sys.argv[3])):
    model = replace(record.model, name=f"{sys.argv[2]}-{index}")
    Store(sys.argv[1]).append(replace(record, model=model))
"""


def test_no_record_of_concurrent_writers_is_lost(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
    }
    path = tmp_path / "records.jsonl"
    writers = 4
    each = 100
    path.write_bytes(b'{"torn')
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number), str(each)], env=env)
        for number in range(writers)
    ]
    assert [process.wait() for process in running] == [0] * writers
    names = [json.loads(line)["model"]["name"] for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(
        f"{number}-{index}" for number in range(writers) for index in range(each)
    )


@pytest.mark.parametrize(
    "content",
    [b"shopping list\nmilk", b"no newline", b"{}\n", b'{"a": 1}\n{"torn', b"[1]\n", b"\x89PNG\n"],
)
def test_a_file_that_is_no_store_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="something other than Records"):
        Store(path).append(run_records()[0])
    assert path.read_bytes() == content


def test_a_fault_of_the_program_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def faulty(argv: object) -> None:
        raise RuntimeError("a\nb " + "x" * 1000)

    assert run_main(faulty) == EXIT_INTERNAL
    out, err = capsys.readouterr()
    (report,) = tmp_path.glob("rfdetr_repro-*.txt")
    assert (
        out == ""
        and err.count("\n") == 1
        and str(report) in err
        and len(err) < LONGEST_LINE + len(str(report))
    )
    assert "in faulty" in report.read_text() and "x" * 1000 in report.read_text()


def test_messages_stay_short_and_keep_the_name_of_the_file() -> None:
    error = InputError(
        "unknown option " + "y" * 5000,
        "/very" * 200 + "/data.yaml",
        "choose " + ", ".join(map(str, range(999))),
    )
    assert (
        len(str(error)) <= LONGEST_LINE
        and "/data.yaml" in str(error)
        and str(error).startswith("unknown option yyy")
    )
    assert run_main(lambda argv: (_ for _ in ()).throw(error)) == EXIT_BAD_INPUT


def test_a_closed_output_and_an_ascii_terminal_end_no_program() -> None:
    script = (
        "from rfdetr_repro.spec.errors import run_main\n"
        "def main(argv):\n"
        "    for _ in range(int(argv[0])): print('gr\\xf6\\xdfer \\u2192 \\u732b')\n"
        "raise SystemExit(run_main(main, {}))"
    )
    many = [sys.executable, "-c", script.format(["100000"])]
    with subprocess.Popen(
        many, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    one = [sys.executable, "-c", script.format(["1"])]
    done = subprocess.run(one, env=ascii_only, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and b"\\u732b" in done.stdout and done.stderr == b""


def test_the_temporary_file_is_made_where_the_result_goes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_path(tmp_path / ("ü" * 120 + ".png")) as temporary:
        assert temporary.parent == tmp_path and temporary.exists()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
