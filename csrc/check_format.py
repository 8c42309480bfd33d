"""Checks the format of the C++ and CUDA sources with clang-format; ``--fix`` changes the files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SUFFIXES = (".cpp", ".cu", ".cuh", ".h")


def main() -> int:
    """Runs clang-format on every source file and returns its exit code."""
    program = shutil.which("clang-format")
    if program is None:
        print("error: clang-format is not installed; pip install clang-format", file=sys.stderr)
        return 2
    folder = Path(__file__).resolve().parent
    files = sorted(str(file) for file in folder.rglob("*") if file.suffix in SUFFIXES)
    how = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "-Werror"]
    return subprocess.run([program, *how, *files], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
