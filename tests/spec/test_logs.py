"""Lines of the library: silent until they are shown, on the right output, between progress bars."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_repro.spec import logs

ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger("rfdetr_repro.room.module")


def test_a_library_is_silent_until_its_user_configures_logging() -> None:
    program = (
        "import logging\n"
        "from rfdetr_repro.spec import logs\n"
        "log = logging.getLogger('rfdetr_repro.x')\n"
        "log.info('unseen')\n"
        "logging.basicConfig(level='INFO', format='%(name)s %(message)s')\n"
        "logs.show_unless_configured()\n"
        "log.info('seen')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (done.stdout, done.stderr) == ("", "rfdetr_repro.x seen\n")


def test_lines_are_shown_where_nobody_has_configured_logging() -> None:
    program = (
        "import logging\n"
        "from rfdetr_repro.spec import logs\n"
        "logs.show_unless_configured()\n"
        "logging.getLogger('rfdetr_repro.x').info('seen')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (done.stdout, done.stderr) == ("seen\n", "")


def test_a_command_leaves_the_level_that_a_program_has_set() -> None:
    logs.hide()
    logs.LOGGER.setLevel(logging.ERROR)
    try:
        with logs.shown():
            logs.choose(verbose=True, quiet=False)
        assert logs.LOGGER.level == logging.ERROR
    finally:
        logs.LOGGER.setLevel(logging.NOTSET)


def test_a_command_inside_a_command_keeps_the_choice_of_the_outer_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.hide()
    with logs.shown():
        logs.choose(verbose=False, quiet=True)
        with logs.shown():
            logs.choose(verbose=False, quiet=False)
            log.info("inside")
        assert logs.is_quiet()
    assert not logs.is_shown() and not logs.is_quiet()
    log.info("after")
    assert capsys.readouterr() == ("", "")


def test_percent_signs_and_braces_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("95 % of {x} at 100%s")
    assert capsys.readouterr().out == "95 % of {x} at 100%s\n"


def test_a_line_does_not_share_its_line_with_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tqdm = pytest.importorskip("tqdm", reason="tqdm draws the bars").tqdm
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with tqdm(total=2, file=terminal, mininterval=0) as bar:
        bar.update()
        log.info("between")
        bar.update()
    # what a terminal shows of each line is what follows its last carriage return
    shown = [line.rpartition("\r")[2].rstrip() for line in terminal.getvalue().split("\n")]
    assert "between" in shown


def test_a_quiet_command_has_no_bar() -> None:
    logs.choose(verbose=False, quiet=True)
    assert logs.progress_bar([1, 2]).disable is True


def test_a_lost_output_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        log.info("lost")
