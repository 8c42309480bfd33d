"""What killed processes leave is removed by the next run, and never what somebody is writing;
signals end commands in order.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rfdetr_repro.spec.errors import EXIT_INTERRUPTED, Interrupted, run_main
from rfdetr_repro.spec.files import atomic_path, remove_unfinished, write_atomic
from rfdetr_repro.spec.unfinished import (
    UNFINISHED,
    TemporaryFolder,
    remove_abandoned_folders,
    temporary_folder,
)

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600  # longer than any load needs

HOLDS = """
    import os, signal, sys, time
    from rfdetr_repro.spec.files import atomic_path
    from rfdetr_repro.spec.unfinished import temporary_folder
    with atomic_path(sys.argv[1]) as path, temporary_folder(sys.argv[2]) as folder:
        path.write_bytes(b"half")
        (folder / "scratch").write_bytes(b"half")
        print("inside", flush=True)
        time.sleep(900)
"""


def start(script: str, *arguments: str, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **more.pop("env", {}),
    }  # type: ignore[dict-item]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more
    )


def said(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    found = process.stdout.readline()
    assert found == line + "\n", found + (process.stderr.read() if process.stderr else "")


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob(f".*{UNFINISHED}"))


def test_what_is_being_written_stays_and_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    with start(HOLDS, str(tmp_path / "model.onnx"), str(tmp_path)) as alive:
        try:
            said(alive, "inside")
            with start(HOLDS, str(tmp_path / "model.onnx"), str(tmp_path)) as other:
                said(other, "inside")
                assert len(unfinished(tmp_path)) == 4
                other.kill()
            # the same file: takes the leftover along, and no other
            write_atomic(tmp_path / "model.onnx", "whole")
            assert len(unfinished(tmp_path)) == 3
            # the folder
            assert len(remove_unfinished(tmp_path)) == 1 and len(unfinished(tmp_path)) == 2
        finally:
            alive.kill()
    assert len(remove_unfinished(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_only_folders_that_bear_the_name_and_are_abandoned_are_removed(tmp_path: Path) -> None:
    for name in (
        "rfdetr_repro_mine",
        ".rfdetr-mine.part",
        ".rfdetr-12345678",
        "ray_12345678",
        "x.rfdetr-12345678.part",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / ".rfdetr-00000000.part").write_text("a file")
    (tmp_path / "target").mkdir()
    (tmp_path / ".rfdetr-11111111.part").symlink_to(tmp_path / "target")
    before = sorted(tmp_path.iterdir())
    (tmp_path / ".rfdetr-22222222.part" / "deep").mkdir(parents=True)
    assert remove_abandoned_folders(tmp_path) == [tmp_path / ".rfdetr-22222222.part"]
    assert sorted(tmp_path.iterdir()) == before


def test_makers_and_removers_do_not_hinder_each_other(tmp_path: Path) -> None:
    """Folders and files are made, used and removed while others remove all that is abandoned,
    without a pause.
    """
    stop = threading.Event()
    wrong = list[object]()

    def remove() -> None:
        while not stop.is_set():
            try:
                remove_abandoned_folders(tmp_path)
                remove_unfinished(tmp_path)
            except OSError as error:
                wrong.append(error)

    def make(name: str) -> None:
        for number in range(60):
            with temporary_folder(tmp_path) as folder, atomic_path(tmp_path / name) as path:
                (folder / "scratch").write_text(str(number))
                path.write_text(str(number))
                if (folder / "scratch").read_text() != path.read_text():
                    wrong.append(number)
            if (tmp_path / name).read_text() != str(number):
                wrong.append(number)

    with ThreadPoolExecutor(5) as pool:
        removers = [pool.submit(remove) for _ in range(2)]
        makers = [pool.submit(make, f"file{number}") for number in range(3)]
        try:
            for maker in makers:
                maker.result()
        finally:
            stop.set()
        for remover in removers:
            remover.result()
    assert not wrong and sorted(path.name for path in tmp_path.iterdir()) == [
        "file0",
        "file1",
        "file2",
    ]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EACCES, errno.ENOLCK])
def test_a_disk_that_cannot_lock_keeps_everything(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    folder = TemporaryFolder(tmp_path)
    (tmp_path / ".old.json.abcdefgh.part").write_text("half")
    assert not remove_abandoned_folders(tmp_path) and not remove_unfinished(tmp_path)
    write_atomic(tmp_path / "old.json", "{}")
    folder.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".old.json.abcdefgh.part",
        "old.json",
    ]


def test_every_command_removes_abandoned_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".rfdetr-abcdefgh.part").mkdir()
    assert run_main(lambda argv: None) == 0 and not list(tmp_path.iterdir())


COMMAND = """
    import sys, time
    from rfdetr_repro.spec.errors import run_main
    from rfdetr_repro.spec.files import atomic_path
    from rfdetr_repro.spec.unfinished import temporary_folder
    def main(argv):
        with atomic_path(argv[0]) as path, temporary_folder() as folder:
            try:
                print("inside", flush=True)
                time.sleep(900)
            finally:
                print("in order", flush=True)
                sys.stdin.readline()
                path.write_text("put in order")
    raise SystemExit(run_main(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_command_in_order_and_a_second_one_does_not_disturb_it(
    tmp_path: Path, number: int
) -> None:
    """As ``timeout`` sends SIGTERM: to the process, then to its group, while it puts things in
    order.
    """
    (temporary := tmp_path / "t").mkdir()
    environment = {"TMPDIR": str(temporary)}
    with start(
        COMMAND, str(tmp_path / "out.json"), env=environment, stdin=subprocess.PIPE
    ) as process:
        said(process, "inside")
        process.send_signal(number)
        said(process, "in order")
        if number != signal.SIGINT:
            process.send_signal(number)
        _, told = process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 128 + number and told.count("\n") == 1
    assert (
        told.startswith("interrupted")
        and "finished work is kept; run the same command again to continue" in told
    )
    assert not list(temporary.iterdir()) and [path.name for path in tmp_path.iterdir()] == ["t"]


IMPORTS = """
    import sys
    from rfdetr_repro.spec.errors import run_main
    def main(argv):
        import slow_to_import
        print("imported", flush=True)
        while True:
            slow_to_import.sleep(0.01)
    raise SystemExit(run_main(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_import_is_finished_before_a_signal_ends_the_command(
    tmp_path: Path, number: int
) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import sys\nfrom time import sleep\nprint('importing', "
        "flush=True)\nsys.stdin.readline()\nsleep(0.2)\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    with start(IMPORTS, env=environment, stdin=subprocess.PIPE) as process:
        said(process, "importing")
        process.send_signal(number)
        out, told = process.communicate("\n", timeout=PATIENCE_S)
    assert (
        process.returncode == 128 + number and out in ("imported\n", "") and told.count("\n") == 1
    ), told
    assert told.startswith("interrupted")


ENDS_FIRST = """
    import sys, threading
    from rfdetr_repro.spec import errors
    errors._AGAIN_S = 3600.0  # the import takes no time, and the command ends long before
    def main(argv):
        import interrupts_itself
        print("imported", threading.active_count(), flush=True)
    code = errors.run_main(main)
    print("ended", threading.active_count(), flush=True)
    raise SystemExit(code)
"""


def test_a_signal_that_waits_for_an_import_ends_with_the_command(tmp_path: Path) -> None:
    """Its timer would otherwise send the signal to what follows, such as the interpreter's end."""
    (tmp_path / "interrupts_itself.py").write_text(
        f"import os\nos.kill(os.getpid(), {int(signal.SIGINT)})\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    with start(ENDS_FIRST, env=environment) as process:
        out, told = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, told) == (0, "imported 2\nended 1\n", "")


def test_signals_that_somebody_else_handles_are_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        assert run_main(lambda argv: os.kill(os.getpid(), signal.SIGTERM)) == 0 and came == [
            signal.SIGTERM
        ]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_afterwards_signals_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)

    def main(argv: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    if before[0] is signal.SIG_DFL:
        assert run_main(main) == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before

    def interrupted(argv: object) -> None:
        raise Interrupted(signal.SIGINT)

    assert run_main(interrupted) == EXIT_INTERRUPTED


def children_of(group: int) -> list[str]:
    """Command lines of the group's processes but zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and os.getpgid(int(entry.name)) == group
                and (line := (entry / "cmdline").read_bytes())
            ):
                found.append(line.decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="children are found through /proc"
)
@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGKILL, False)]
)
def test_composing_a_data_set_ends_with_its_processes(
    tmp_path: Path, number: int, group: bool
) -> None:
    command = [
        sys.executable,
        "-m",
        "rfdetr_repro.data.embedded",
        "--out",
        str(tmp_path),
        "--side",
        "64",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    while not list(tmp_path.glob(".train.partial/*.jpg")):
        assert process.poll() is None
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, number)
    _, told = process.communicate(timeout=PATIENCE_S)
    end = time.monotonic() + PATIENCE_S
    while (left := children_of(process.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    if number == signal.SIGTERM:
        assert (
            process.returncode == 143
            and told.startswith("interrupted by SIGTERM")
            and told.count("\n") == 1
        )
        assert not list(tmp_path.iterdir())
