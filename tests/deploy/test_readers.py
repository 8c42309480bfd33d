"""The runner's readers of manifests and pictures under AddressSanitizer, and its declarations of
ONNX Runtime's functions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples_export import tiny_artifact, tiny_detector

from rfdetr_repro.export.artifact import manifest_path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "deploy"
CXX = shutil.which("g++")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CXX is None, reason="no g++")]
# header, library and definition of each optional format
FORMATS = {
    ".jpg": ("jpeglib.h", "-ljpeg", "-DRFDETR_WITH_JPEG"),
    ".png": ("png.h", "-lpng", "-DRFDETR_WITH_PNG"),
}


def compiles(text: str, *more: str) -> bool:
    """Whether g++ accepts ``text``."""
    assert CXX is not None
    command = [CXX, "-std=c++20", "-x", "c++", "-fsyntax-only", *more, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).returncode == 0


def links(text: str, library: str) -> bool:
    """Whether a program with the header in ``text`` can be linked with ``library``."""
    assert CXX is not None
    with tempfile.TemporaryDirectory() as folder:
        command = [CXX, "-std=c++20", "-x", "c++", "-", library, "-o", f"{folder}/program"]
        whole = f"{text}int main() {{ return 0; }}\n"
        return subprocess.run(command, input=whole, capture_output=True, text=True).returncode == 0


def seeds(folder: Path, suffixes: list[str]) -> list[Path]:
    """A manifest, and small pictures of every format that can be read."""
    artifact = tiny_artifact(folder, tiny_detector())
    pixels = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [manifest_path(artifact.path)]
    for suffix in (".ppm", *suffixes):
        how = {} if suffix == ".ppm" else {"exif": exif}
        Image.fromarray(pixels).save(folder / f"a{suffix}", **how)
        found.append(folder / f"a{suffix}")
    Image.fromarray(pixels).convert("L").save(folder / "grey.pgm")
    return [*found, folder / "grey.pgm"]


def test_spoiled_files_touch_no_other_memory(tmp_path: Path) -> None:
    assert CXX is not None
    probe = "#include <cstddef>\n#include <cstdio>\n#include <{}>\n"
    there = [name for name in FORMATS if links(probe.format(FORMATS[name][0]), FORMATS[name][1])]
    program = tmp_path / "readers"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
    command = [CXX, "-std=c++20", "-O1", "-g", *checks, str(HERE / "sanitized_readers.cpp")]
    command += [FORMATS[name][2] for name in there] + ["-o", str(program)]
    command += [FORMATS[name][1] for name in there]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    files = seeds(tmp_path, there)
    done = subprocess.run(
        [str(program), "1", "3000", *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read = [int(number) for number in re.findall(r" (\d+) of 3000", done.stdout)]
    assert len(read) == len(files) and min(read) < 3000 and max(read) > 0


def test_places_of_functions_are_those_of_the_official_header(tmp_path: Path) -> None:
    """Compiles only where onnxruntime_c_api.h is installed."""
    assert CXX is not None
    if not compiles("#include <onnxruntime_c_api.h>\n"):
        pytest.skip("onnxruntime_c_api.h is not installed")
    text = (SOURCES / "ort_api.h").read_text(encoding="utf-8")
    functions = re.findall(r"\(\*(\w+)\)\(", text.split("struct OrtApiBase")[0])
    values = re.findall(r"(\w+) = (\d+)", text)
    lines = [f'std::printf("{name} %zu\\n", offsetof(OrtApi, {name}));' for name in functions]
    lines += [f'std::printf("{name} %d\\n", int({name}));' for name, _ in values]
    body = "int main() {" + "\n".join(lines) + "}\n"
    told = []
    for header in ("<onnxruntime_c_api.h>", f'"{SOURCES / "ort_api.h"}"'):
        program = tmp_path / f"places{len(told)}"
        source = f"#include <cstddef>\n#include <cstdio>\n#include {header}\n{body}"
        command = [CXX, "-std=c++20", "-w", "-x", "c++", "-o", str(program), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        told.append(subprocess.run([str(program)], capture_output=True, text=True).stdout)
    assert told[0] == told[1] and len(functions) > 20
