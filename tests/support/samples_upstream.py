"""Contents of checkpoints as upstream writes them, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]
SAID = {
    "sa_nheads": 2,
    "ca_nheads": 4,
    "dec_n_points": 2,
    "out_feature_indexes": [1, 2, 3, 4],
    "num_windows": 1,
}


def written(folder: Path, content: Any, **how: Any) -> Path:
    path = folder / "file.pth"
    torch.save(content, path, **how)
    return path


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}
