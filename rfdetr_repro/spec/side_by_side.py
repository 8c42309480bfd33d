"""Two pieces of work at the same time, on two cores: Python runs one at a time in a process, so the
second runs in a forked process, which starts with everything that this process has in memory.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Here = TypeVar("Here")
There = TypeVar("There")


def side_by_side(here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
    """The results of both functions. ``there`` runs in a forked process at the same time as
    ``here``, or after ``here`` where :func:`can_fork` says no.

    What ``there`` changes in memory is lost; its result comes back by pickle, and so does its
    exception, which is raised here. An exception of ``here`` ends the other process. Raises
    RuntimeError if the other process is killed.
    """
    with begun(there) as (result,):
        return here(), result()


@contextmanager
def begun(*works: Callable[[], Any]) -> Iterator[list[Callable[[], Any]]]:
    """Begins ``works``, one after the other, in a forked process, and yields for each a function
    that waits for its result. Where :func:`can_fork` says no, such a function does its work when it
    is first called.

    Results and exceptions come back as those of :func:`side_by_side`; after an exception no further
    work is done. The other process ends with the block.
    """
    if not can_fork():
        yield [functools.cache(work) for work in works]
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_results, args=(works, sender), daemon=True)
    gc.freeze()  # a collector that looks at shared memory would copy it
    try:
        _start(process)
        sender.close()  # so that the pipe ends with the other process
        results = _Results(receiver, process)
        try:
            yield [functools.partial(results.at, place) for place in range(len(works))]
        finally:
            # it has ended, unless an error came up here; a signal that asks could be ignored
            process.kill()
            process.join()
    finally:
        receiver.close()
        gc.unfreeze()


def can_fork() -> bool:
    """Whether a forked process is possible, safe and of use: on Linux, with two cores, and without
    threads. A lock that a thread holds at the fork stays locked in the new process for ever, and
    the threads of PyTorch, once loaded, are many.
    """
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1
        and "torch" not in sys.modules
        and not multiprocessing.current_process().daemon  # which may start no process
    )


def _start(process: Any) -> None:
    """Starts the process without a warning about the threads of NumPy's matrix products, which end
    before a fork and start anew after it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        process.start()


def _send_results(works: Sequence[Callable[[], Any]], sender: Connection) -> None:
    """In the other process: sends (result, None, "") for each of ``works``; for the first that
    fails (None, error, traceback), which is the last.
    """
    # a pipe holds little, and the next work need not wait until the result before it is read
    with ThreadPoolExecutor(1) as post:
        for work in works:
            answer: tuple[Any, Exception | None, str]
            try:
                answer = (work(), None, "")
            except Exception as error:
                answer = (None, error, traceback.format_exc())
            except BaseException:  # an interrupt, which this process hears of as well
                os._exit(1)
            post.submit(_send, sender, answer)
            if answer[1] is not None:
                break


def _send(sender: Connection, answer: Any) -> None:
    try:
        sender.send(answer)
    except BrokenPipeError:  # nobody waits any longer
        os._exit(1)
    except Exception:  # a result that cannot be pickled
        traceback.print_exc()
        os._exit(1)


class _Results:
    """The results of another process, received in the order in which that process sends them."""

    def __init__(self, receiver: Connection, process: Any) -> None:
        self._receiver = receiver
        self._process = process
        self._received: list[Any] = []

    def at(self, place: int) -> Any:
        """The result at ``place``, once it and those before it have come."""
        while len(self._received) <= place:
            self._received.append(self._next())
        return self._received[place]

    def _next(self) -> Any:
        try:
            result, error, trace = self._receiver.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the second process of this command was ended (exit code {self._process.exitcode})"
            ) from None
        if error is not None:
            raise error from RuntimeError(f"in the second process:\n{trace}")
        return result
