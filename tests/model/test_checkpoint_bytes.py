"""Equal weights and metadata give equal bytes, whatever the process and the order of the
dictionaries.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rfdetr_repro.model.checkpoints.native import read_tensors, write_tensors
from rfdetr_repro.spec.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
METADATA = {f"key {index}": f'value {index} "quoted" \n\t\x01\x7f é 猫 /' for index in range(8)}
WRITE = """
import sys, torch
from rfdetr_repro.model.checkpoints.native import write_tensors
from test_checkpoint_bytes import METADATA, tensors
order = reversed(METADATA) if sys.argv[2] == "1" else METADATA
write_tensors(sys.argv[1], tensors(), {key: METADATA[key] for key in order})
"""


def tensors() -> dict[str, torch.Tensor]:
    return {
        "b": torch.arange(6.0).reshape(2, 3),
        "a": torch.arange(5, dtype=torch.int64),
        "c": torch.zeros(0),
    }


def test_equal_content_has_one_hash(tmp_path: Path) -> None:
    hashes = set()
    # the order of the library's own hash table changes from process to process
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors(), METADATA)
        hashes.add(sha256_file(path))
    for number in range(2):
        path = tmp_path / f"process {number}.safetensors"
        command = [sys.executable, "-c", WRITE, str(path), str(number)]
        subprocess.run(
            command, check=True, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'model'}"}
        )
        hashes.add(sha256_file(path))
    assert len(hashes) == 1
    read, metadata = read_tensors(path)
    assert METADATA.items() <= metadata.items() and all(
        torch.equal(read[name], value) for name, value in tensors().items()
    )
    with safe_open(str(path), framework="pt") as stream:  # the library's own reader agrees
        assert stream.metadata() == metadata
    assert load_file(path).keys() == tensors().keys()
