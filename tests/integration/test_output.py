"""Where a command's output goes: closed, full, a pipe that nobody reads, a terminal that knows
ASCII only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_repro.spec.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from rfdetr_repro.spec.arguments import ArgumentParser
from rfdetr_repro.spec.errors import run_main
def main(argv):
    ArgumentParser("x", description="\\u00b1").parse_args(argv)
    sys.stdout.write("\\u00b1 \\u4e2d\\n" * 10)
raise SystemExit(run_main(main, sys.argv[1:]))
"""


def run(redirected: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [
        "bash",
        "-c",
        f'"$0" -c "$1" "${{@:2}}" {redirected}',
        sys.executable,
        PROGRAM,
        *arguments,
    ]
    plain = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}  # neither HOME nor TERM
    return subprocess.run(command, capture_output=True, text=True, env=plain, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_output_that_is_closed_or_full(arguments: tuple[str, ...]) -> None:
    """The interpreter itself would end with exit code 120 and a complaint of two lines, or with a
    traceback.
    """
    closed = run(">&-", *arguments)
    assert (closed.returncode, closed.stderr) == (0, "")
    full = run(">/dev/full", *arguments)
    assert full.returncode == 2 and full.stderr.startswith(
        "error: cannot write the output: No space left on device"
    )
    assert full.stderr.count("\n") == 1
    unread = run('| head -c 0; exit "${PIPESTATUS[0]}"', *arguments)
    # 0: the pipe took all before its reader ended
    assert unread.stderr == "" and unread.returncode in (0, 141)


def test_a_pipe_that_nobody_reads() -> None:
    script = PROGRAM.replace("* 10", "* 100_000")
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_an_error_while_both_outputs_are_closed() -> None:
    assert run(">&- 2>&-", "--no-such-flag").returncode == 2


def test_a_terminal_that_knows_ascii_only() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "1"}
    for arguments in ((), ("--help",)):
        done = run("", *arguments, **ascii_only)
        assert (
            done.returncode == 0
            and "\\xb1" in done.stdout
            and done.stdout.isascii()
            and done.stderr == ""
        )


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
awaited, module, *words = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == awaited:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = words
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("module", "while_imported"),
    [
        ("rfdetr_repro.tables", "rfdetr_repro.tables.command"),
        ("rfdetr_repro.mean", "rfdetr_repro.records.aggregate"),
        ("rfdetr_repro.cli", "rfdetr_repro.tables.command"),
    ],
)
def test_ctrl_c_while_a_command_is_imported_ends_in_one_line(
    module: str, while_imported: str
) -> None:
    """The signal waits for the import; the command may have refused its arguments before."""
    words = ["tables", "--no-such"] if module == "rfdetr_repro.cli" else ["--no-such"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, while_imported, module, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode in (EXIT_INTERRUPTED, EXIT_BAD_INPUT), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
