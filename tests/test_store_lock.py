"""One search at a time writes a store; the lock ends with its process, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples_run import run_records

from rfdetr_repro.errors import EXIT_BAD_INPUT, InputError
from rfdetr_repro.store import Store, read_stores

HOLDER = """
import sys, time
from samples_run import run_records
from rfdetr_repro.errors import run_main
from rfdetr_repro.store import Store
def main(argv):
    store = Store(sys.argv[1])
    with store.exclusive():
        store.append(run_records()[0])
        print("holding", flush=True)
        time.sleep(float(sys.argv[2]))
raise SystemExit(run_main(main))
"""


def start(path: Path, seconds: float) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_a_second_search_gets_one_line_and_a_killed_one_leaves_no_lock(tmp_path):
    store = Store(tmp_path / "records.jsonl")
    holder = start(store.path, 60)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
        second = start(store.path, 0)
        out, err = second.communicate(timeout=60)
        assert second.returncode == EXIT_BAD_INPUT and out == "" and err.count("\n") == 1
        assert f"another search (pid {holder.pid} since 2" in err and "writes this store" in err
        assert store.read() == run_records()[:1] == read_stores([tmp_path])  # readers are not kept waiting
    finally:
        holder.kill()
        holder.communicate()
    with store.exclusive():  # a resumed run works
        store.append(run_records()[1])
    assert store.read() == run_records()[:2]


def test_the_lock_ends_with_its_block(tmp_path):
    store = Store(tmp_path / "folder" / "records.jsonl")
    for _ in range(2):
        with pytest.raises(RuntimeError), store.exclusive():
            with pytest.raises(InputError, match=rf"another search \(pid {os.getpid()} since .+\) writes this store"):
                with Store(store.path).exclusive():
                    pass
            raise RuntimeError
    with Store(tmp_path / "folder" / "other.jsonl").exclusive():
        pass


def test_a_place_that_takes_no_lock_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        with Store(tmp_path / "file" / "records.jsonl").exclusive():
            pass
