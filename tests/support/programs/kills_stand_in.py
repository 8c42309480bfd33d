"""Runs the tool ``tests/kills`` on one small command instead of the campaign: ``python
kills_stand_in.py FAULT FOLDER``. Prints, as JSON, the kills and what the tool finds wrong.
"""

import json
import random
import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
KILLS = HERE.parents[1] / "kills"
sys.path[:0] = [str(KILLS), str(KILLS.parents[1])]
tool = runpy.run_path(str(KILLS / "__main__.py"))
inside = tool["Run"].go.__globals__
fault = sys.argv[1]
place = Path(sys.argv[2])


class Work(tool["Command"]):
    """Runs the program ``killed_work.py``."""

    @property
    def argv(self):
        return [sys.executable, str(HERE / "killed_work.py"), *self.words]


class AtHalf:
    """The moment at which the file ``half`` is there."""

    def __init__(self, folder, mark, skip):
        self.folder = folder

    def question(self, name):
        return self.there

    def there(self):
        # the child and the scratch file come after "half": give them their time
        if not (self.folder / "half").exists():
            return False
        time.sleep(0.5)
        return True


inside["commands"] = lambda folder, sam, ray: [Work("work", (fault,), 1)]
inside["outcome"] = lambda folder: {"files": sorted(path.name for path in folder.iterdir())}
inside["SURVIVE_S"] = 1.0
inside["Moments"] = AtHalf
run = tool["Run"](place, place, False, random.Random(0), {"work": 600.0})
found = run.go([tool["Kill"]("work", "half", False, False, 0)])
run.wrong += tool["differences"]({"files": ["half", "whole"]}, found)
run.end_all()
print(json.dumps([run.kills, run.wrong]))
