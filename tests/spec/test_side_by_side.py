"""Two functions at the same time: results, errors and ends of both processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading

import pytest

from rfdetr_repro.spec import side_by_side as module
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.side_by_side import can_fork, side_by_side


@pytest.fixture(params=["forked", "in turn"])
def forks(request, monkeypatch):
    """Both ways, whatever the machine and the modules that other tests loaded."""
    if request.param == "forked" and sys.platform != "linux":
        pytest.skip("only Linux forks")
    monkeypatch.setattr(module, "can_fork", lambda: request.param == "forked")
    return request.param == "forked"


def test_both_results_come_back(forks):
    here, there = side_by_side(os.getpid, lambda: (os.getpid(), ["any", {"value": 1.5}]))
    assert here == os.getpid() and there[1] == ["any", {"value": 1.5}]
    assert (there[0] != here) == forks
    assert not multiprocessing.active_children()


def test_they_run_at_the_same_time():
    if sys.platform != "linux":
        pytest.skip("only Linux forks")
    first, second = os.pipe(), os.pipe()

    def here() -> bytes:  # each waits for the other
        os.write(first[1], b"a")
        return os.read(second[0], 1)

    def there() -> bytes:
        os.write(second[1], b"b")
        return os.read(first[0], 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "can_fork", lambda: True)
        assert side_by_side(here, there) == (b"b", b"a")
    for end in (*first, *second):
        os.close(end)


def test_an_error_of_either_is_raised_as_it_is(forks):
    def bad() -> None:
        raise InputError("broken", "file.json", "mend the file")

    for works in ((bad, os.getpid), (os.getpid, bad)):
        with pytest.raises(InputError) as caught:
            side_by_side(*works)
        error = caught.value
        assert str(error) == "broken (file.json); mend the file"
        assert (error.what, error.where, error.hint) == ("broken", "file.json", "mend the file")
    assert not multiprocessing.active_children()


def test_the_traceback_of_the_other_process_is_kept():
    if sys.platform != "linux":
        pytest.skip("only Linux forks")

    def divide_by_nothing() -> float:
        return 1 / 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "can_fork", lambda: True)
        with pytest.raises(ZeroDivisionError) as caught:
            side_by_side(os.getpid, divide_by_nothing)
    assert "divide_by_nothing" in str(caught.value.__cause__)


def test_a_killed_process_is_an_error_and_an_interrupt_ends_it():
    if sys.platform != "linux":
        pytest.skip("only Linux forks")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "can_fork", lambda: True)
        with pytest.raises(RuntimeError, match=r"ended \(exit code -9\)"):
            side_by_side(os.getpid, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(KeyboardInterrupt):
            side_by_side(interrupted, threading.Event().wait)  # which would wait for ever
    assert not multiprocessing.active_children()


def test_no_fork_with_threads_or_one_core_or_torch(monkeypatch):
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
