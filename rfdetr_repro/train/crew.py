"""The other processes of a flow that one process leads, such as a campaign under ``torchrun``.

The first process runs the flow: it alone decides, writes, prints and measures. The others wait for
its orders on a connection: to take part in a training, or to evaluate items of a search. A process
that waits is blocked in the kernel and needs no processor, so latencies are measured on a quiet
machine, and no collective operation is open that could time out. A connection ends with its
process, however that ends, so each side learns at once that the other has ended.

Under ``torchrun`` the others are its processes (:func:`leading`, :func:`follow`), which also train
together. Elsewhere :func:`started` starts processes for the items of a search.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from rfdetr_repro.ops.device import choose_device, torch_threads
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_FAILED, InputError, StatedFailure
from rfdetr_repro.spec.launch import place_in_torchrun

from .interrupts import SIGNALS
from .parallel import join_torchrun
from .processes import SIDE_EFFECT
from .trainer import Trainer

Work = Callable[[Any], Any]
Make = Callable[[], Work]
Child = subprocess.Popen[bytes]
# orders
TRAIN = "train"  # with the arguments of a Trainer
MAKE = "make"  # with what makes the function for the items that follow
ITEM = "item"
UNREADABLE = "unreadable"  # with the error
# answers
DONE = "done"
BAD_INPUT = "bad input"
FAILED = "failed"
_LOOPBACK = "127.0.0.1"
_CONTINUE = "run the same command again to continue"
_END_S = 30.0  # that a process with a fault waits for the first process to report it and end
_CLOSE_S = 5.0


class ProcessEnded(StatedFailure):
    """A process ended while the first process needed it."""


class Member:
    """Another process, from the first process's view."""

    def __init__(self, rank: int, connection: Connection, child: Child | None = None) -> None:
        """``rank``: from 1; ``child``: the process, if the first process started it."""
        self.rank = rank
        self.connection = connection
        self.child = child
        self.made: Make | None = None  # what the process's work was made by

    def tell(self, order: str, content: Any = None) -> None:
        """Gives an order; :meth:`answer` returns its result."""
        with suppress(ConnectionError):  # it has ended, which :meth:`answer` reports
            _send(self.connection, (order, content))

    def answer(self) -> Any:
        """Waits for the result of the order. Raises :class:`InputError` for bad input,
        :class:`ProcessEnded` if the process ended, :class:`StatedFailure` for any other fault.
        """
        try:
            outcome, content = _received(self.connection)
        except EOFError as error:
            raise ProcessEnded(
                f"process {self.rank}{self._code()} has ended; {_CONTINUE}"
            ) from error
        if outcome == BAD_INPUT:
            raise InputError(content)
        if outcome == FAILED:
            raise StatedFailure(f"process {self.rank} has failed ({content}); {_CONTINUE}")
        return content

    def make(self, make: Make) -> None:
        """Has the process make its work, unless it has done so."""
        if self.made != make:
            self.made = None
            self.tell(MAKE, make)
            self.answer()
            self.made = make

    def hang_up(self) -> None:
        """Ends the connection, which ends the process."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)  # also where a thread is reading
        self.connection.close()

    def wait(self) -> None:
        """Waits until a process that was started here has ended; ends it if it takes too long."""
        if self.child is not None:
            try:
                self.child.wait(_CLOSE_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def _code(self) -> str:
        """The exit code in words, where it can be known."""
        if self.child is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            return f" (exit code {self.child.wait(_CLOSE_S)})"
        return ""


class Crew:
    """The other processes, from the first process's view; :data:`ALONE` has none.

    ``threads``: threads of each process while all work, the first process included; None: as many
    as it has.
    """

    def __init__(self, members: Sequence[Member] = (), threads: int | None = None) -> None:
        """See the class for the arguments."""
        self.members = sorted(members, key=lambda member: member.rank)
        self.threads = threads
        self._feeders: list[threading.Thread] = []

    @property
    def size(self) -> int:
        """Number of processes, with the first."""
        return 1 + len(self.members)

    @staticmethod
    def current() -> Crew:
        """The crew that takes part in every training of this process."""
        return _CURRENT.get()

    @contextmanager
    def training(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """The others train too while the block trains; ``arguments``: of their ``Trainer``, whose
        device is each process's own.

        A fault of another process is raised as in :meth:`Member.answer`.
        """
        self._settle()
        for member in self.members:
            member.made = None
            member.tell(TRAIN, arguments)
        try:
            yield
        except RuntimeError as error:
            self._explain(error)
            raise
        for member in self.members:
            member.answer()

    def run(self, make: Make, work: Work, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yields (item, result) in order of completion, each item exactly once. Each process takes
        the next item as soon as it is free: the others with what ``make`` returns there, this
        process with ``work``. Closing the iterator gives up all items that are not begun.
        """
        self._settle()
        waiting = deque(items)
        answers: SimpleQueue[Any] = SimpleQueue()
        self._feeders = [
            threading.Thread(target=_feed, args=(one, make, waiting, answers), daemon=True)
            for one in self.members
        ]
        with torch_threads(self.threads or torch.get_num_threads()):
            for feeder in self._feeders:
                feeder.start()
            try:
                left = len(items)
                while left:
                    if waiting and answers.empty():
                        for item in _taken(waiting):
                            yield item, work(item)
                            left -= 1
                    else:
                        yield _result(answers.get())
                        left -= 1
            finally:
                waiting.clear()
        self._settle()
        while not answers.empty():
            _result(answers.get())

    def close(self) -> None:
        """Ends the others."""
        for member in self.members:
            member.hang_up()
        for member in self.members:
            member.wait()

    def _settle(self) -> None:
        """Waits for the answers to the orders of a run that was given up, which would otherwise be
        taken for answers to the next orders.
        """
        for feeder in self._feeders:
            feeder.join()
        self._feeders = []

    def _explain(self, error: RuntimeError) -> None:
        """Raises what stopped another process, if one was stopped: bad input first, then an end
        without a word, then any reason that does not follow from another process's end.
        """
        reasons: list[InputError | StatedFailure] = []
        # longer where the error shows that another process is ending
        until = time.monotonic() + (_END_S if _follows(error) else _CLOSE_S)
        for member in self.members:
            if member.connection.poll(max(0.0, until - time.monotonic())):
                try:
                    member.answer()
                except (InputError, StatedFailure) as reason:
                    reasons.append(reason)
        if reasons:
            raise min(reasons, key=_later_blame) from error


ALONE = Crew()
_CURRENT: ContextVar[Crew] = ContextVar("the crew that trains", default=ALONE)


def _send(connection: Connection, message: tuple[str, Any]) -> None:
    """Sends a message whole; the connection's own ``send`` would put tensors into shared memory,
    which processes without a common parent cannot open.
    """
    connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))


def _received(connection: Connection) -> tuple[str, Any]:
    """A message of :func:`_send`, from a process of the same program. Raises EOFError where that
    process has ended, in the middle of a message too.
    """
    try:
        content = connection.recv_bytes()
    except OSError as error:
        raise EOFError(str(error)) from error
    message: tuple[str, Any] = pickle.loads(content)
    return message


def _follows(error: Exception) -> bool:
    """Whether the error follows from the end of another process."""
    return any(part in str(error) for part in SIDE_EFFECT)


def _later_blame(reason: Exception) -> int:
    if isinstance(reason, InputError):
        return 0
    if isinstance(reason, ProcessEnded):
        return 1
    return 3 if _follows(reason) else 2


def _feed(member: Member, make: Make, waiting: deque[Any], answers: SimpleQueue[Any]) -> None:
    """Gives ``member`` one item after the other, in a thread of the first process."""
    try:
        member.make(make)
        while waiting:
            for item in _taken(waiting):
                member.tell(ITEM, item)
                answers.put((item, member.answer()))
    except Exception as error:
        answers.put(error)


def _taken(waiting: deque[Any]) -> list[Any]:
    """The next item; none if another process was faster."""
    try:
        return [waiting.popleft()]
    except IndexError:
        return []


def _result(answer: Any) -> tuple[Any, Any]:
    if isinstance(answer, Exception):
        raise answer
    item, result = answer
    return item, result


# -- processes of torchrun -------------------------------------------------------------------------


def check_torchrun() -> None:
    """Raises :class:`InputError`, in the first process and before any waits for another, for
    processes on several machines and for more processes than GPUs.
    """
    _, size = place_in_torchrun()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if size != here:
        raise InputError(
            f"{size} processes of which {here} are on this machine",
            hint="start all processes of a campaign on one machine; train and search can use more",
        )
    if choose_device().type == "cuda" and here > torch.cuda.device_count():
        raise InputError(
            f"{here} processes, and this machine has {torch.cuda.device_count()} GPUs",
            hint="start fewer processes",
        )


@contextmanager
def leading() -> Iterator[Crew]:
    """The other processes of ``torchrun``, led by this process, its first, while the block runs;
    :data:`ALONE` without ``torchrun``.

    Every training in the block is one of all processes.
    """
    if place_in_torchrun()[1] == 1:
        yield ALONE
        return
    with ExitStack() as stack:
        members: list[Member] = []
        with _signals_end_at_once():
            _, ranks = join_torchrun(None)
            key = os.urandom(32)
            with Listener((_LOOPBACK, 0), backlog=ranks.size, authkey=key) as listener:
                dist.broadcast_object_list([listener.address, key], src=0)
                while len(members) < ranks.size - 1:
                    with suppress(AuthenticationError, EOFError, ConnectionError):
                        connection = listener.accept()  # any program of this machine may knock
                        members.append(Member(connection.recv(), connection))
        crew = Crew(members)
        stack.callback(crew.close)
        stack.callback(_CURRENT.reset, _CURRENT.set(crew))
        yield crew


def follow() -> NoReturn:
    """The life of a process of ``torchrun`` other than the first, which prints and writes nothing.
    Ends this process.
    """
    _be_silent()
    with _signals_end_at_once():
        try:
            device, ranks = join_torchrun(None)
            found: list[Any] = [None, None]
            dist.broadcast_object_list(found, src=0)
            address, key = found
            connection = Client(address, authkey=key)
            connection.send(ranks.rank)
        except Exception as error:
            # the first process finds the same, or has ended: it says so, and torchrun ends this one
            time.sleep(_END_S)
            _exit_with(FAILED, f"a process could not join the others: {error}")
    _serve(connection, device)


@contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Lets a signal end this process while the block waits for other processes inside PyTorch,
    where no handler of Python runs.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


# -- processes of this program ---------------------------------------------------------------------


@contextmanager
def started(count: int) -> Iterator[Crew]:
    """A crew of ``count`` processes with this process, which share its threads, while the block
    runs.
    """
    threads = max(1, torch.get_num_threads() // count)
    crew = Crew(threads=threads)
    with ExitStack() as stack:
        stack.callback(crew.close)
        for rank in range(1, count):
            crew.members.append(_start(rank, count, threads))
        yield crew


def _start(rank: int, count: int, threads: int) -> Member:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": str(threads),
        "LOCAL_WORLD_SIZE": str(count),  # by which decoding threads share the cores
    }
    ours, theirs = Pipe()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "rfdetr_repro.train.crew", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return Member(rank, ours, child)


# -- the life of another process -------------------------------------------------------------------


def _be_silent() -> None:
    """Shows no line of the library and no warning, which the first process shows."""
    logs.hide()
    logs.LOGGER.addHandler(logging.NullHandler())
    logs.LOGGER.propagate = False
    warnings.simplefilter("ignore")


def _serve(connection: Connection, device: torch.device) -> NoReturn:
    """Follows orders until the first process hangs up or ends, which ends this process."""
    # signals may reach all processes of a job: the first process saves, then hangs up
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    orders: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    work: Work | None = None
    try:
        while True:
            order, content = orders.get()
            result = None
            if order == UNREADABLE:
                raise content
            if order == TRAIN:
                work = None  # its model would take memory from the training
                Trainer(**{**content, "device": device}).run()
            elif order == MAKE:
                work = content()
            elif work is not None:
                result = work(content)
            _send(connection, (DONE, result))
    except InputError as error:
        _end(connection, BAD_INPUT, str(error))
    except StatedFailure as error:
        _end(connection, FAILED, str(error))
    except Exception as error:
        _end(connection, FAILED, f"{type(error).__name__}: {error}"[:200].replace("\n", " "))


def _listen(connection: Connection, orders: SimpleQueue[tuple[str, Any]]) -> None:
    """Receives orders; the end of the first process, or of its need for this one, ends this
    process.
    """
    while True:
        try:
            orders.put(_received(connection))
        except EOFError:
            os._exit(0)
        except Exception as error:
            orders.put((UNREADABLE, error))


def _end(connection: Connection, outcome: str, line: str) -> NoReturn:
    """Reports a fault and waits for the first process to end, which ends this process."""
    with suppress(OSError):
        _send(connection, (outcome, line))
    # the first process may wait for this one in the group, which tells it by ending
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()
    time.sleep(_END_S)
    _exit_with(outcome, line)


def _exit_with(outcome: str, line: str) -> NoReturn:
    """Ends this process with a line that the first process did not print."""
    sys.stderr.write(f"failed: {line}\n")
    sys.stderr.flush()
    os._exit(EXIT_BAD_INPUT if outcome == BAD_INPUT else EXIT_FAILED)


if __name__ == "__main__":
    _be_silent()
    _serve(Connection(int(sys.argv[1])), torch.device("cpu"))
