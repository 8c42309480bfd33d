"""Training throughput of Nano at batch 16 with compiled code: ``compile=true``, and the same as
CUDA graphs (``cuda_graph=true``), on a batch that stays on the device.

A step of its own, because generating code takes most of its time; the second case takes over what
the first one generated. At toy size nothing is generated: the graphs of the forward pass are traced
and then run by PyTorch, and CUDA graphs are refused, because they need a GPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks import pace
from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.training import measured
from rfdetr_repro.train.trainer import Trainer

CASES: dict[str, dict[str, bool]] = {
    "auto": {},
    "auto, compiled": {"compile": True},
    "auto, compiled, CUDA graphs": {"compile": True, "cuda_graph": True},
}


def main() -> None:
    """The cases in the order of what they take over from the one before."""
    step = Step.of("compiled", __doc__)
    torch.set_num_threads(1 if step.toy else 4)
    if step.toy:
        Trainer.compiler = "eager"
    with tempfile.TemporaryDirectory() as temporary:
        split = pace.write_pictures(Path(temporary) / "data", images=8 if step.toy else 32)
        for name, settings in list(CASES.items())[1 if step.toy else 0 :]:
            placed = f"{name}, one batch on the device"
            graphs = "cuda_graph" in settings
            measured(step, split, placed, "auto", pace.MADE_UP, settings=settings, needs_gpu=graphs)
    step.end()


if __name__ == "__main__":
    main()
