"""Helper processes: one run on several cores of one CPU, each process with its share of every batch and of the threads.

The caller is rank 0; each helper is ``python -m rfdetr_repro.train.helpers``, gets its work through its standard input, and
reports on its standard output what kept it from working. Worth it even on two cores: what a step does in one thread (Python,
small operations, the optimizer) then runs side by side. Several machines or GPUs: ``torchrun`` (see the train command).
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..errors import InputError, StatedFailure
from .parallel import Ranks

_PATIENCE = timedelta(days=1)  # the others wait while rank 0 evaluates; a process that died is noticed at once
_READY = b"ready\n"
MOST, IMAGES_EACH = 4, 2


def default_processes(batch_size: int) -> int:
    """Processes for CPU training: at most one per thread, four, and one per two images of a batch."""
    if torch.cuda.is_available() or not dist.is_available() or Ranks.current().size > 1:
        return 1
    return max(1, min(torch.get_num_threads(), MOST, batch_size // IMAGES_EACH))


@contextmanager
def helpers(processes: int, **trainer: Any) -> Iterator[None]:
    """Inside, this process is rank 0 of ``processes``; ``trainer``: what the helpers construct their ``Trainer`` from.

    Construct one's own ``Trainer`` inside. What stops a helper is raised here: :class:`InputError` for bad input, else
    :class:`StatedFailure`; the run can be resumed.
    """
    if processes == 1:
        yield
        return
    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="rfdetr_repro_"))
        stack.callback(_stop, children)
        for rank in range(1, processes):
            children.append(_start(rank, processes, share, place, trainer))
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(share)
        for child in children:
            _await_ready(child)
        try:
            _join(0, processes, place)
            stack.callback(dist.destroy_process_group)
            yield
        except RuntimeError as error:
            _explain(children, error)
            raise


def _start(rank: int, size: int, threads: int, place: str, trainer: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-m", "rfdetr_repro.train.helpers"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True)
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it ended already; _await_ready says so
        pickle.dump({"rank": rank, "size": size, "threads": threads, "place": place, "trainer": trainer}, child.stdin)
        child.stdin.flush()  # and left open: its end tells the helper that this process is gone
    return child


def _await_ready(child: subprocess.Popen[bytes]) -> None:
    """Returns when the helper is about to join; joining without it would wait for a day."""
    assert child.stdout is not None
    if child.stdout.readline() != _READY:
        raise StatedFailure(f"a training process could not start (exit code {child.wait()})")


def _join(rank: int, size: int, place: str) -> None:
    """The default process group of this machine's processes; they meet at a file and talk over the loopback interface."""
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    store = dist.FileStore(str(Path(place) / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _explain(children: list[subprocess.Popen[bytes]], error: RuntimeError) -> None:
    """Raises what a helper that ended said, if one ended."""
    for child in children:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        said = child.stdout.read().decode(errors="replace").strip() if child.stdout is not None else ""
        if child.returncode == 2 and said:
            raise InputError(said) from error
        if child.returncode:
            lines = said.splitlines()
            reason = lines[-1] if lines else f"exit code {child.returncode}"
            raise StatedFailure(f"a training process ended ({reason}); run the same command again to go on") from error


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        try:
            child.wait(timeout=5)  # a finished run's helpers end by themselves
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has, however that ended; without it a helper could wait for the parent for ever."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """A helper's whole life: 0 done, 2 bad input (one line on standard output), 1 anything else."""
    work = pickle.load(sys.stdin.buffer)  # from our own parent, never from a file
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(work["threads"])
    from .engine import Trainer

    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    try:
        _join(work["rank"], work["size"], work["place"])
        Trainer(**work["trainer"]).run()
    except InputError as error:
        print(error)
        return 2
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " "))
        return 1
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of the loader and of a broken process group would keep it alive
