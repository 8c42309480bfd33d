"""The tool that kills campaigns (``tox run -e kills``) sees each thing that can be wrong; a blind
one would call all right.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

KILLS = Path(__file__).resolve().parents[1] / "kills"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found through /proc"
)

# Three commands stand for the campaign. ``work`` takes until a file is there, and writes it through
# a temporary name.
FAKE = """
import json, random, sys
from pathlib import Path
sys.path[:0] = [{kills!r}, {root!r}]
import runpy
tool = runpy.run_path({kills!r} + "/__main__.py")
Run, Kill, Command = tool["Run"], tool["Kill"], tool["Command"]
space = Run.go.__globals__
fault, place = sys.argv[1], Path(sys.argv[2])
WORK = '''
import os, subprocess, sys, time
fault = sys.argv[1]
if not os.path.exists("half"):
    open("half", "w").close()
    if fault == "orphan":
        sleeper = [sys.executable, "-c", "import time; time.sleep(86400)"]
        subprocess.Popen(sleeper, start_new_session=True)
    if fault == "scratch":
        open(os.path.join(os.environ["TMPDIR"], "scratch"), "w").close()
    time.sleep(86400)
open("half" if fault == "lost" else "whole", "w").write("result")
sys.exit(3 if fault == "exit code" else 0)
'''
class Fake(Command):
    @property
    def argv(self):
        return [sys.executable, "-c", WORK, *self.words]
space["commands"] = lambda folder, sam, ray: [Fake("work", (fault,), 1)]
space["outcome"] = lambda folder: {{"files": sorted(path.name for path in folder.iterdir())}}
space["SURVIVE_S"] = 1.0
class AtHalf:
    def __init__(self, folder, mark, skip): self.folder = folder
    def question(self, name): return lambda: self.there()
    def there(self):
        # the child and the scratch file come after "half": give them their time
        import time
        if (self.folder / "half").exists():
            time.sleep(0.5)
            return True
        return False
space["Moments"] = AtHalf
run = Run(place, place, False, random.Random(0), {{"work": 600.0}})
found = run.go([Kill("work", "half", False, False, 0)])
run.wrong += tool["differences"]({{"files": ["half", "whole"]}}, found)
run.end_all()
print(json.dumps([run.kills, run.wrong]))
"""


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
    script = textwrap.dedent(FAKE).format(kills=str(KILLS), root=str(KILLS.parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", script, fault, str(tmp_path / "r")],
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
