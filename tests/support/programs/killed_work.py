"""A command that takes until a file is there, and writes it through a temporary name; its argument
says what is wrong with it.
"""

import os
import subprocess
import sys
import time

fault = sys.argv[1]
if not os.path.exists("half"):
    with open("half", "w"):
        pass
    if fault == "orphan":
        sleeper = [sys.executable, "-c", "import time; time.sleep(86400)"]
        subprocess.Popen(sleeper, start_new_session=True)
    if fault == "scratch":
        with open(os.path.join(os.environ["TMPDIR"], "scratch"), "w"):
            pass
    time.sleep(86400)
with open("half" if fault == "lost" else "whole", "w") as stream:
    stream.write("result")
sys.exit(3 if fault == "exit code" else 0)
