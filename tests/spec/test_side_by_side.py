"""Two functions at the same time: results, errors and ends of both processes.

What forks runs in a program of its own: the process of the tests has threads and PyTorch, and a
process forked from it might wait for ever for a lock that a thread held.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from rfdetr_repro.spec import side_by_side as module
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.side_by_side import can_fork, side_by_side

START = """
import multiprocessing, os, signal, threading
from rfdetr_repro.spec import side_by_side as module
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.side_by_side import side_by_side

if FORKS:  # whatever the number of cores
    module.can_fork = lambda: threading.active_count() == 1
    assert module.can_fork()
else:
    module.can_fork = lambda: False

def bad():
    raise InputError("broken", "file.json", "mend the file")
"""
RESULTS = """
here, there = side_by_side(os.getpid, lambda: (os.getpid(), ["any", {"value": 1.5}]))
assert here == os.getpid() and there[1] == ["any", {"value": 1.5}]
assert (there[0] != here) == FORKS
"""
ERRORS = """
for works in ((bad, os.getpid), (os.getpid, bad)):
    try:
        side_by_side(*works)
    except InputError as error:
        assert str(error) == "broken (file.json); mend the file"
        assert (error.what, error.where, error.hint) == ("broken", "file.json", "mend the file")
    else:
        raise AssertionError("no error")
"""
TOGETHER = """
first, second = os.pipe(), os.pipe()

def here():
    os.write(first[1], b"a")
    return os.read(second[0], 1)

def there():
    os.write(second[1], b"b")
    return os.read(first[0], 1)

assert side_by_side(here, there) == (b"b", b"a")
"""
TRACEBACK = """
def divide_by_nothing():
    return 1 / 0

try:
    side_by_side(os.getpid, divide_by_nothing)
except ZeroDivisionError as error:
    assert "divide_by_nothing" in str(error.__cause__)
else:
    raise AssertionError("no error")
"""
KILLED = """
try:
    side_by_side(os.getpid, lambda: os.kill(os.getpid(), signal.SIGKILL))
except RuntimeError as error:
    assert "ended (exit code -9)" in str(error), error
else:
    raise AssertionError("no error")
"""
INTERRUPTED = """
came = os.pipe()

def waits():  # for ever, deaf to every signal that a process can refuse
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(came[1], b"x")
    threading.Event().wait()

def interrupted():
    os.read(came[0], 1)
    raise KeyboardInterrupt

try:
    side_by_side(interrupted, waits)
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("no interrupt")
"""
SEVERAL = """
begins = os.pipe()
much = bytes(3_000_000)  # more than a pipe holds

def second():
    os.write(begins[1], b"x")
    return "second"

with module.begun(lambda: much, second, os.getpid) as (first, then, process):
    if FORKS:  # before anybody takes the first result
        os.read(begins[0], 1)
    assert then() == "second"
    assert first() == much
    assert then() == "second"
    assert (process() != os.getpid()) == FORKS
"""
LATER_ERROR = """
with module.begun(os.getpid, bad) as (first, then):
    assert (first() != os.getpid()) == FORKS
    try:
        then()
    except InputError as error:
        assert str(error) == "broken (file.json); mend the file"
    else:
        raise AssertionError("no error")
"""
UNWANTED = """
with module.begun(lambda: bytes(3_000_000), threading.Event().wait) as results:
    pass  # nobody asks for a result: the process ends with the block
"""
NOT_PICKLED = """
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the traceback of the second process
try:
    side_by_side(os.getpid, lambda: lambda: None)
except RuntimeError as error:
    assert "ended (exit code 1)" in str(error), error
else:
    raise AssertionError("no error")
"""
END = """
assert not multiprocessing.active_children()
print("done")
"""


@pytest.mark.parametrize(
    ("program", "forks"),
    [
        (RESULTS, True),
        (RESULTS, False),
        (ERRORS, True),
        (ERRORS, False),
        (TOGETHER, True),
        (TRACEBACK, True),
        (KILLED, True),
        (INTERRUPTED, True),
        (SEVERAL, True),
        (SEVERAL, False),
        (LATER_ERROR, True),
        (LATER_ERROR, False),
        (UNWANTED, True),
        (NOT_PICKLED, True),
    ],
    ids=[
        "results",
        "results in turn",
        "errors",
        "errors in turn",
        "together",
        "traceback",
        "killed",
        "interrupted",
        "several results",
        "several results in turn",
        "an error after a result",
        "an error after a result in turn",
        "unwanted results",
        "a result that cannot be pickled",
    ],
)
def test_two_processes(program: str, forks: bool) -> None:
    if forks and sys.platform != "linux":
        pytest.skip("only Linux forks")
    text = f"FORKS = {forks}\n{START}{program}{END}"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_in_turn_in_this_process() -> None:
    def bad() -> None:
        raise InputError("broken", "file.json", "mend the file")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "can_fork", lambda: False)
        assert side_by_side(os.getpid, os.getpid) == (os.getpid(), os.getpid())
        with pytest.raises(InputError, match="broken"):
            side_by_side(os.getpid, bad)


def test_no_fork_with_threads_or_one_core_or_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux forks")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert can_fork()
    for owner, name, value in (
        (os, "sched_getaffinity", lambda process: {0}),
        (threading, "active_count", lambda: 2),
        (sys, "platform", "darwin"),
        (sys, "modules", {**sys.modules, "torch": module}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not can_fork()
