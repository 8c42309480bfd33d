"""Training in several processes of one CPU: each has its share of every batch and of the threads.

The caller is rank 0; the others are ``python -m rfdetr_repro.train.processes``: they get their work
through standard input and report on standard output what kept them from it. Worth it even on two
cores: what a step does in one thread (Python, small operations, the optimizer) then runs side by
side. Several machines or GPUs: ``torchrun`` (see the train command).
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
# how a process fails because another one did
_SIDE_EFFECT = ("Connection", "closed by peer", "gloo")
MOST = 4
IMAGES_EACH = 2


def default_processes(batch_size: int) -> int:
    """Processes for training on the CPU: at most one per thread, four, and one per two images of a
    batch.
    """
    return (
        max(1, min(torch.get_num_threads(), MOST, batch_size // IMAGES_EACH))
        if dist.is_available()
        else 1
    )


@contextmanager
def shared(count: int, **trainer: Any) -> Iterator[None]:
    """Inside, this process is rank 0 of ``count``; ``trainer``: what the others construct their
    ``Trainer`` from.

    Construct one's own ``Trainer`` inside. What stops another process is raised here:
    :class:`InputError` for bad input, else :class:`StatedFailure`; the run can be resumed.
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
    with suppress(BrokenPipeError):  # it ended already; _await_ready says so
        pickle.dump(work, stream)
        stream.flush()  # and left open: its end tells the child that this process is gone


def _await_ready(child: Child) -> None:
    """Returns when the child is about to join; joining without it would wait for a day."""
    if _pipe(child.stdout).readline() != _READY:
        raise StatedFailure(f"a training process could not start (exit code {child.wait()})")


def _join(rank: int, size: int, place: str, stack: ExitStack) -> None:
    """Joins the group of this machine's processes, until ``stack`` closes: they meet at a file and
    talk over the loopback.
    """
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
        stack.callback(os.environ.pop, "GLOO_SOCKET_IFNAME")
    store = dist.FileStore(str(Path(place) / "store"), size)  # type: ignore[attr-defined] # public
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    stack.callback(dist.destroy_process_group)


def _explain(children: list[Child], error: RuntimeError) -> None:
    """Raises what stopped a child, if one ended: bad input first, then a signal, then any reason
    that is not another's end.
    """
    ended: list[tuple[int, int, str]] = []
    # another one is ending, or none may be
    patience_s = 60 if any(part in str(error) for part in _SIDE_EFFECT) else 5
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            if code := child.wait(timeout=patience_s):
                said = (
                    child.stdout.read().decode(errors="replace").strip()
                    if child.stdout is not None
                    else ""
                )
                rank = (
                    0
                    if code == 2 and said
                    else 1
                    if code < 0
                    else 3
                    if any(part in said for part in _SIDE_EFFECT)
                    else 2
                )
                ended.append((rank, code, said))
    if ended:
        rank, code, said = min(ended)
        if rank == 0:
            raise InputError(said) from error
        reason = said.splitlines()[-1] if said else f"exit code {code}"
        raise StatedFailure(
            f"a training process ended ({reason}); run the same command again to go on"
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
    """Ends this process as soon as its parent has, however that ended; without it, it could wait
    for the parent for ever.
    """
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """A child's whole life: 0 done, 2 bad input (one line on standard output), 1 anything else."""
    # also where they come to all processes of a job: the parent saves, then ends this one
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    work = pickle.load(sys.stdin.buffer)  # from our own parent, never from a file
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
