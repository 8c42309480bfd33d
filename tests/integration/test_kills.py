"""The tool that kills campaigns (``tox run -e kills``) sees each thing that can be wrong; a blind
one would call all right.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).resolve().parents[1] / "kills"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found through /proc"
)

PROGRAM = KILLS.parent / "support" / "programs" / "kills_stand_in.py"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("none", ""),
        ("orphan", "1 processes outlive their parent"),
        ("scratch", "left in the temporary folder: ['scratch']"),
        ("lost", "files: without ['whole']"),
        ("exit code", "work: exit code 3"),
    ],
)
def test_each_fault_is_seen(fault: str, told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), fault, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills, wrong = json.loads(done.stdout.splitlines()[-1])
    assert len(kills) == 1 and kills[0].startswith("work parent half after ")
    assert bool(wrong) == bool(told) and any(told in line for line in wrong) == bool(told), wrong


def test_every_command_and_moment_is_planned() -> None:
    script = f"""
import random, runpy, sys
sys.path[:0] = [{str(KILLS)!r}]
tool = runpy.run_path({str(KILLS / "__main__.py")!r})
for runs, kills in ((8, 60), (1, 1), (3, 7)):
    rows = tool["plans"](runs, kills, True, random.Random(1))
    flat = [kill for row in rows for kill in row]
    moments = {{(one.command, one.moment) for one in flat if one.moment}}
    groups = {{one.group for one in flat}}
    print(len(rows), len(flat), len(moments), len(groups))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert rows[0] == (8, 60, 14, 2) and rows[1][:2] == (1, 1) and rows[2][:2] == (3, 7)
