"""What every step has: options, the store of its Records, and what is said of the machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.gpu import ABSENT, WRONG
from rfdetr_repro.bench.machine import environment, this_machine
from rfdetr_repro.records.record import Cost, Latency, Machine, ModelId, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.presets import PICO, Preset
from rfdetr_repro.spec.protocol import Protocol

SOURCE = "gpu"  # of the Records
# a model with every part, windows and several decoder layers included, of which a pass is short
TOY = Preset(
    replace(
        PICO.model,
        vit_dim=32,
        vit_heads=2,
        vit_depth=2,
        feature_stages=(1, 2),
        global_blocks=(1,),
        hidden=32,
        projector_blocks=1,
        self_heads=2,
        cross_heads=4,
        ffn=64,
        queries=10,
        groups=2,
        pos_grid=8,
    ),
    Arch(64, 16, 2, 2, 10),
    note="to try a step of the GPU run",
)


@dataclass
class Step:
    """One step while it runs.

    ``toy``: sizes so small that a processor without a GPU needs seconds; the code is the same.
    ``seconds``: the time that the step may take; a step that measures in rounds ends by it.
    """

    name: str
    device: torch.device
    store: Store
    toy: bool
    seconds: float
    started: float = field(default_factory=time.monotonic)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, description: str | None, argv: Sequence[str] | None = None) -> Step:
        """The step ``name`` with the options of the command line."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.gpu_steps.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--out", type=Path, required=True, help="file of this step's Records (JSON Lines)"
        )
        parser.add_argument(
            "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: try the step"
        )
        parser.add_argument(
            "--toy", action="store_true", help="the smallest sizes, to try the step"
        )
        parser.add_argument(
            "--seconds", type=float, default=600.0, help="time that the step may take"
        )
        args = parser.parse_args(argv)
        if args.device == "cuda" and not torch.cuda.is_available():
            parser.error("PyTorch sees no CUDA device; --device cpu tries the step without a GPU")
        return cls(name, torch.device(args.device), Store(args.out), args.toy, args.seconds)

    @property
    def on_gpu(self) -> bool:
        """Whether the step runs on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds that are left of the step's time."""
        return self.seconds - (time.monotonic() - self.started)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the packages, read once: a step makes many Records."""
        return environment()

    @property
    def machine(self) -> Machine:
        """This machine; its GPU is the one that PyTorch names."""
        machine = this_machine()
        return replace(machine, gpu=torch.cuda.get_device_name()) if self.on_gpu else machine

    def record(
        self,
        model: ModelId,
        latency: Latency,
        protocol: Protocol,
        *,
        cost: Cost | None = None,
        deployment: str | None = None,
        agreement: str | None = None,
    ) -> Record:
        """Appends a measurement to the step's store. ``agreement``: how far the results are from
        others, in words.
        """
        return self.store.append(
            Record(
                SOURCE,
                model,
                latency=latency,
                protocol=protocol,
                cost=cost,
                machine=self.machine,
                env=self.versions,
                started_at=utc_now(),
                command=f"python -m benchmarks.gpu_steps.{self.name}",
                deployment=deployment,
                agreement=agreement,
            )
        )

    def wrong(self, text: str) -> None:
        """Notes a result that is not what it has to be. The step goes on; :meth:`end` fails it."""
        self.faults.append(text)
        self.say(f"WRONG: {text}")

    def end(self) -> None:
        """Ends the step: raises SystemExit with the code :data:`WRONG` if a result was wrong."""
        if self.faults:
            self.say(f"{len(self.faults)} of this step's results are wrong")
            raise SystemExit(WRONG)

    def absent(self, reason: str) -> NoReturn:
        """Ends a step that lacks what it needs: raises SystemExit with the code :data:`ABSENT`. The
        reason is the last line, which the run repeats.
        """
        self.say(reason)
        raise SystemExit(ABSENT)

    def say(self, text: str) -> None:
        """Prints a line at once, so that a step that is ended leaves what it found."""
        print(text, flush=True)
