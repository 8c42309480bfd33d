"""Processes that wait for orders: items are done once each, work is made once, faults of a process
are told in one line, and nobody is left.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from samples_pool import Answer, MakeSquares, Square
from tiny import TINY, TRAIN

from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.launch import place_in_torchrun
from rfdetr_repro.train import crew as module
from rfdetr_repro.train.crew import ALONE, Crew, Member, ProcessEnded, started
from rfdetr_repro.train.parallel import Ranks
from rfdetr_repro.train.plan import plan
from rfdetr_repro.train.recipe import Recipe


def numbers(found: list[tuple[Square, Answer]]) -> list[int]:
    assert all(item.number == answer.number for item, answer in found)
    assert all(answer.values[2] == 2 * item.number**2 for item, answer in found)
    return sorted(item.number for item, _ in found)


def test_items_are_shared_and_work_is_made_once(tmp_path: Path) -> None:
    """No item is done before both processes have made their work, so both take part. Signals that
    reach the other process too leave its end to the first.
    """
    make = MakeSquares(str(tmp_path), together=2)
    threads = torch.get_num_threads()
    with started(2) as crew:
        child = crew.members[0].child
        assert child is not None
        first = list(crew.run(make, make(), [Square(number) for number in range(8)]))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.send_signal(number)
        crew.members[0].tell(module.ITEM, Square(8))
        assert crew.members[0].answer().pid == child.pid
        second = list(crew.run(make, make.work, [Square(9)]))
        assert Crew.current() is ALONE  # it takes part in no training
        assert child.poll() is None
    assert numbers(first) == list(range(8)) and numbers(second) == [9]
    assert {answer.pid for _, answer in first} == {os.getpid(), child.pid}
    assert make.lines().count("make") == 2 and torch.get_num_threads() == threads
    assert child.returncode == 0


def test_a_killed_process_ends_the_work_with_its_signal(tmp_path: Path) -> None:
    make = MakeSquares(str(tmp_path), together=2)
    with (
        started(2) as crew,
        pytest.raises(ProcessEnded, match=r"process 1 \(exit code -9\) has ended; run the same"),
    ):
        done = crew.run(make, make(), [Square(number) for number in range(500)])
        for _, answer in done:
            if answer.pid != os.getpid():
                os.kill(answer.pid, signal.SIGKILL)


def test_bad_input_of_a_process_is_told_as_it_is(tmp_path: Path) -> None:
    make = MakeSquares(str(tmp_path), forbidden=1)
    with started(2) as crew:
        member = crew.members[0]
        member.make(make)
        member.tell(module.ITEM, Square(1))
        with pytest.raises(InputError, match=r"^no such number \(item 1\); leave it out$"):
            member.answer()
    assert member.child is not None and member.child.returncode == 0


class Slow:
    """A process that is at work with its item until it is ``free``."""

    rank = 1

    def __init__(self) -> None:
        self.log: list[str] = []
        self.free = threading.Event()

    def make(self, make: object) -> None:
        pass

    def tell(self, order: str, item: Square) -> None:
        self.log.append(f"order {item.number}")

    def answer(self) -> str:
        assert self.free.wait(60)
        self.log.append("answer")
        return "done"


def test_a_run_waits_for_what_another_run_gave_up() -> None:
    """Else the answer to an order of the first run could be taken for that to one of the second."""
    slow = Slow()

    def work(item: Square) -> None:
        while not slow.log:
            time.sleep(0.001)

    crew = Crew([slow])  # type: ignore[list-item]
    first = crew.run(object, work, [Square(1), Square(2), Square(3)])  # type: ignore[arg-type]
    next(first)
    first.close()
    assert len(slow.log) == 1
    threading.Timer(0.3, slow.free.set).start()
    second = list(crew.run(object, lambda item: None, [Square(4)]))  # type: ignore[arg-type]
    assert [item for item, _ in second] == [Square(4)]
    assert slow.log[1] == "answer"


def test_a_process_that_ends_in_the_middle_of_an_answer_has_ended() -> None:
    ours, theirs = Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 100) + b"the first bytes")
    theirs.close()
    with pytest.raises(ProcessEnded, match="process 1 has ended; run the same command again"):
        Member(1, ours).answer()
    ours.close()


def test_an_order_that_cannot_be_read_is_told_and_the_process_still_hears(tmp_path: Path) -> None:
    with started(2) as crew:
        member = crew.members[0]
        member.connection.send_bytes(b"no pickle")
        with pytest.raises(StatedFailure, match=r"process 1 has failed \(UnpicklingError"):
            member.answer()
    assert member.child is not None and member.child.returncode == 0  # it was not killed


@pytest.mark.parity
def test_what_is_given_up_ends_the_process(tmp_path: Path) -> None:
    make = MakeSquares(str(tmp_path), together=2)
    with started(2) as crew:
        child = crew.members[0].child
        done = crew.run(make, make(), [Square(number) for number in range(500)])
        next(done)
        done.close()
    assert child is not None and child.returncode == 0
    assert len(make.lines()) < 100


def test_alone_one_process_does_everything_in_order(tmp_path: Path) -> None:
    make = MakeSquares(str(tmp_path), seconds=0)
    items = [Square(number) for number in (3, 1, 2)]
    assert [item for item, _ in ALONE.run(make, make(), items)] == items
    with ALONE.training({}):
        pass
    with pytest.raises(IndexError, match="of the work"):  # not taken for the end of the items
        list(ALONE.run(make, _broken, items))


def _broken(item: Square) -> None:
    raise IndexError("of the work")


def test_the_place_in_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert place_in_torchrun() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    assert place_in_torchrun() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert place_in_torchrun() == (3, 8)
    module.check_torchrun()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="8 processes of which 4 are on this machine; start all"):
        module.check_torchrun()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(module, "choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="8 processes, and this machine has 4 GPUs; start fewer"):
        module.check_torchrun()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InputError, match="WORLD_SIZE = 'many' are not the numbers of a process"):
        place_in_torchrun()


def test_a_plan_waits_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process plans alone; without a group any exchange with others would fail here."""
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(0, 2))
    recipe = Recipe(TINY, replace(TRAIN, steps=2), None)
    assert plan(recipe, torch.device("cpu"), 8, processes=2).step_seconds > 0
