"""Training in several processes on one CPU: each has its share of every batch and of the threads.

The caller is rank 0. The other processes are ``python -m rfdetr_repro.train.processes``, which get
their work through standard input and report errors on standard output. This is faster even on two
cores, because the single-threaded parts of a step (Python, small operations, the optimizer) then
run in parallel. For several machines or GPUs use ``torchrun`` (see the train command).
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.unfinished import temporary_folder

from .interrupts import SIGNALS
from .parallel import PATIENCE
from .trainer import Trainer

Child = subprocess.Popen[bytes]
_READY = b"ready\n"
# texts of errors in a process that follow from the failure of another process
SIDE_EFFECT = ("Connection", "closed by peer", "gloo", "NCCL")
MOST = 4
IMAGES_EACH = 2


def default_processes(batch_size: int) -> int:
    """Number of processes for training on the CPU: at most one per thread, at most four, and one
    per two images of a batch.
    """
    return (
        max(1, min(torch.get_num_threads(), MOST, batch_size // IMAGES_EACH))
        if dist.is_available()
        else 1
    )


@contextmanager
def shared(count: int, **trainer: Any) -> Iterator[None]:
    """Makes this process rank 0 of ``count`` while the block runs; ``trainer`` holds the arguments
    of the other processes' ``Trainer``.

    Construct this process's ``Trainer`` inside the block. An error that stops another process is
    raised here: :class:`InputError` for bad input, else :class:`StatedFailure`; the run can be
    resumed.
    """
    if count == 1:
        yield
        return
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    children: list[Child] = []
    with ExitStack() as stack:
        place = str(stack.enter_context(temporary_folder()))
        stack.callback(_stop, children)
        for rank in range(1, count):
            children.append(_start())
            _send(
                children[-1],
                {"rank": rank, "size": count, "threads": share, "place": place, "trainer": trainer},
            )
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(share)
        for child in children:
            _await_ready(child)
        try:
            _join(0, count, place, stack)
            yield
        except RuntimeError as error:
            _explain(children, error)
            raise


def _start() -> Child:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
    command = [sys.executable, "-m", "rfdetr_repro.train.processes"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """An end of a child, which is started with pipes."""
    if stream is None:
        raise RuntimeError("a training process was started without pipes")
    return stream


def _send(child: Child, work: dict[str, Any]) -> None:
    stream = _pipe(child.stdin)
    with suppress(BrokenPipeError):  # the child ended already, which _await_ready reports
        pickle.dump(work, stream)
        stream.flush()  # stays open: its end tells the child that this process has ended


def _await_ready(child: Child) -> None:
    """Returns when the child is about to join; joining without the child would wait for a day."""
    if _pipe(child.stdout).readline() != _READY:
        raise StatedFailure(f"a training process could not start (exit code {child.wait()})")


def _join(rank: int, size: int, place: str, stack: ExitStack) -> None:
    """Joins the group of this machine's processes until ``stack`` closes. The processes meet at a
    file and communicate over the loopback.
    """
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
        stack.callback(os.environ.pop, "GLOO_SOCKET_IFNAME")
    store = dist.FileStore(str(Path(place) / "store"), size)  # type: ignore[attr-defined] # public
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    stack.callback(dist.destroy_process_group)


def _explain(children: list[Child], error: RuntimeError) -> None:
    """Raises what stopped a child, if a child ended: bad input first, then a signal, then any
    reason that does not follow from another process's end.
    """
    ended: list[tuple[int, int, str]] = []
    # wait longer where the error shows that another process is ending
    patience_s = 60 if any(part in str(error) for part in SIDE_EFFECT) else 5
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            if code := child.wait(timeout=patience_s):
                output = (
                    child.stdout.read().decode(errors="replace").strip()
                    if child.stdout is not None
                    else ""
                )
                rank = (
                    0
                    if code == 2 and output
                    else 1
                    if code < 0
                    else 3
                    if any(part in output for part in SIDE_EFFECT)
                    else 2
                )
                ended.append((rank, code, output))
    if ended:
        rank, code, output = min(ended)
        if rank == 0:
            raise InputError(output) from error
        reason = output.splitlines()[-1] if output else f"exit code {code}"
        raise StatedFailure(
            f"a training process ended ({reason}); run the same command again to continue"
        ) from error


def _stop(children: list[Child]) -> None:
    for child in children:
        try:
            child.wait(timeout=5)  # a finished run's processes end by themselves
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however the parent ended; the process
    could otherwise wait for the parent for ever.
    """
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """The whole life of a child process. Returns 0 when done, 2 for bad input (one line on standard
    output), 1 for anything else.
    """
    # signals may reach all processes of a job: the parent saves, then ends this process
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    work = pickle.load(sys.stdin.buffer)  # from the parent process, never from a file
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(work["threads"])
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    try:
        with ExitStack() as stack:
            _join(work["rank"], work["size"], work["place"], stack)
            Trainer(**work["trainer"]).run()
    except InputError as error:
        sys.stdout.write(f"{error}\n")
        return 2
    except Exception as error:
        line = f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")
        sys.stdout.write(f"{line}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of the loader and of a broken process group would keep it alive
