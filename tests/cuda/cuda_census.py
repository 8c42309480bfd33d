"""Counts the machine instructions of every CUDA kernel: barriers, atomics, vector loads, calls of
64-bit division, registers and spills, for each architecture. census.csv holds what was counted;
``python tests/cuda/cuda_census.py`` writes that file anew.

It needs nvcc and nvdisasm, which the package nvidia-cuda-nvdisasm has without a CUDA toolkit.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cuda_builds

TABLE = cuda_builds.HERE / "census.csv"
ARCHITECTURES = ("75", "80", "90", "100", "120")  # the first of each generation
# what an instruction's name says that it is
KINDS = {
    "barriers": r"BAR\.SYNC",
    "shuffles": r"SHFL",
    "votes": r"VOTE|R2UR\.VOTE",
    "shared_atomics": r"ATOMS",
    "spins": r"ATOMS\.CAST\.SPIN|ATOM\S*\.CAS\b|ATOMG\S*\.CAS\b",
    "global_adds": r"REDG?\.|ATOMG?\.\S*ADD",
    "wide_adds": r"REDG?\.\S*F32x[24]",
    "loads_16_bytes": r"LDG\S*\.128",
    "loads": r"LDG",
    "stores_16_bytes": r"STG\S*\.128",
    "stores_8_bytes": r"STG\S*\.64",
    "stores": r"STG",
    "fused_products": r"FFMA",
    "divisions_64": r"CALL\S*\s+`\(\S*_(?:div|rem)_[su]64\b",
    "instructions": r"",
}
COLUMNS = ("source", "kernel", "architecture", *KINDS, "registers", "spilled_bytes")
Row = dict[str, str | int]


def disassembler() -> str | None:
    """Path of nvdisasm: on PATH, or in a package of NVIDIA's."""
    found = shutil.which("nvdisasm")
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    inside = [path for folder in folders for path in Path(folder).glob("*/bin/nvdisasm")]
    return found or next(map(str, inside), None)


def missing() -> str:
    """Why a census cannot be taken; empty where it can."""
    if cuda_builds.NVCC is None:
        return "no nvcc"
    return "" if disassembler() else "no nvdisasm: pip install nvidia-cuda-nvdisasm"


def nvcc_version() -> str:
    """Release of nvcc, such as 13.0."""
    assert cuda_builds.NVCC is not None
    text = cuda_builds.run([cuda_builds.NVCC, "--version"]).stdout
    return re.search(r"release ([\d.]+)", text)[1]


def digest_of_sources() -> str:
    """What the kernels are compiled from, without what no compiler reads: comments and spaces."""
    seen: set[Path] = set()
    sources = [cuda_builds.SOURCES / f"{name}.cu" for name in cuda_builds.KERNELS]
    text = b"\0".join(cuda_builds.contents(path, seen) for path in sources)
    words = re.sub(rb"//[^\n]*", b"", text).split()
    return hashlib.sha256(b" ".join(words)).hexdigest()


def plain_name(name: str) -> str:
    """A kernel's demangled name without namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::|^void ", "", name)
    return (
        re.sub(r"\((?!anonymous).*", "", name)
        .replace("(bool)1", "true")
        .replace("(bool)0", "false")
    )


def demangled(names: list[str]) -> dict[str, str]:
    """Plain names by mangled names."""
    command = ["c++filt"]
    done = subprocess.run(
        command, input="\n".join(names), capture_output=True, text=True, check=True
    )
    return dict(zip(names, map(plain_name, done.stdout.splitlines()), strict=True))


def counted(code: str) -> dict[str, int]:
    """How many instructions of each kind a function's listing has."""
    form = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?([A-Z].*)"
    found = [text for text in re.findall(form, code, re.M) if not text.startswith("NOP")]
    return {kind: sum(bool(re.match(form, x)) for x in found) for kind, form in KINDS.items()}


def census(source: str, architecture: str, folder: Path) -> list[Row]:
    """A row for each kernel of one source."""
    assert cuda_builds.NVCC is not None
    cubin = folder / f"{source}-{architecture}.cubin"
    flags = ["-std=c++17", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v"]
    where = str(cuda_builds.SOURCES / f"{source}.cu")
    notes = cuda_builds.run([cuda_builds.NVCC, *flags, where, "-o", str(cubin)]).stderr
    form = (
        r"entry function '(\w+)' for .*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers"
    )
    used = {
        name: (int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in re.findall(form, notes, re.DOTALL)
    }
    program = disassembler()
    assert program is not None
    listing = cuda_builds.run([program, "-c", str(cubin)]).stdout
    _, *parts = re.split(r"^\.text\.(\w+):\n", listing, flags=re.M)
    functions = dict(zip(parts[::2], parts[1::2], strict=True))
    names = demangled(list(functions))
    rows: list[Row] = []
    for mangled, code in functions.items():
        registers, spilled = used[mangled]
        counts = counted(code)
        rows.append(
            {
                **{"source": source, "kernel": names[mangled], "architecture": architecture},
                **counts,
                **{"registers": registers, "spilled_bytes": spilled},
            }
        )
    return sorted(rows, key=lambda row: str(row["kernel"]))


def table() -> tuple[str, str, dict[tuple[str, str, str], Row]]:
    """The release of nvcc and the digest of the sources that census.csv is of, and its rows by
    source, kernel, architecture.
    """
    first, second, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = {}
    for texts in csv.DictReader(lines):
        key = (texts["source"], texts["kernel"], texts["architecture"])
        rows[key] = {name: int(text) if text.isdigit() else text for name, text in texts.items()}
        rows[key]["architecture"] = texts["architecture"]
    return first.removeprefix("# nvcc "), second.removeprefix("# sources "), rows


def main() -> int:
    """Writes census.csv."""
    why = missing()
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for source in cuda_builds.KERNELS
            for architecture in ARCHITECTURES
            for row in census(source, architecture, Path(folder))
        ]
    with TABLE.open("w", encoding="utf-8") as file:
        file.write(f"# nvcc {nvcc_version()}\n# sources {digest_of_sources()}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
