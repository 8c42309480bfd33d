"""Two pieces of work at the same time, on two cores: Python runs one at a time in a process, so the
second runs in a forked process, which starts with everything that this process has in memory.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
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
    if not can_fork():
        return here(), there()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(there, sender), daemon=True)
    gc.freeze()  # a collector that looks at shared memory would copy it
    try:
        _start(process)
        sender.close()  # so that the pipe ends with the other process
        try:
            return here(), _received(receiver, process)
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


def _send_result(work: Callable[[], Any], sender: Connection) -> None:
    """In the other process: sends (result, None, "") or (None, error, traceback)."""
    answer: tuple[Any, Exception | None, str]
    try:
        answer = (work(), None, "")
    except Exception as error:
        answer = (None, error, traceback.format_exc())
    except BaseException:  # an interrupt, which this process hears of as well
        os._exit(1)
    try:
        sender.send(answer)
    except BrokenPipeError:  # nobody waits any longer
        os._exit(1)


def _received(receiver: Connection, process: Any) -> Any:
    try:
        result, error, trace = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the second process of this command was ended (exit code {process.exitcode})"
        ) from None
    if error is not None:
        raise error from RuntimeError(f"in the second process:\n{trace}")
    return result
