"""Makes tox forget which environment used a folder last.

``python .ci/forget_environment.py FOLDER``: several environments of tox.ini share one folder, which
tox would otherwise build anew for each name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

file = Path(sys.argv[1], ".tox-info.json")
info = json.loads(file.read_text())
info.pop("ToxEnv", None)
file.write_text(json.dumps(info))
