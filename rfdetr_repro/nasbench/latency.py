"""Latencies of the benchmark's architectures: some measured, the others by a model that was fitted
to these, with its error on architectures left out of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import parse_json, read_input, write_atomic
from rfdetr_repro.spec.json_text import sorted_encoder

FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """A latency in ms for a batch of one. ``low`` and ``high``: 95 % interval of a measured
    latency; ``error``: median relative error of a modelled latency; None in the other case.
    """

    ms: float
    measured: bool
    low: float | None = None
    high: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Runtime:
    """The latencies on one runtime with one number of threads.

    ``measured``: key of an architecture -> median, lower and upper end of its 95 % interval in ms.
    ``modelled_ms``: every architecture in the order of the space. ``error_median``, ``error_p95``:
    relative error of the model on engines left out of the fit. ``about``: machine, versions and way
    of measuring.
    """

    about: dict[str, Any]
    measured: dict[str, tuple[float, float, float]]
    modelled_ms: tuple[float, ...]
    error_median: float
    error_p95: float


@dataclass(frozen=True)
class Latencies:
    """The latencies by name of runtime and threads, such as ``onnxruntime-1``."""

    archs: tuple[Arch, ...]
    runtimes: dict[str, Runtime]

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for."""
        return tuple(self.runtimes)

    def of(self, place: int, on: str) -> Timing:
        """The latency of the architecture at ``place``: the measured one where there is one."""
        runtime = self.runtime(on)
        found = runtime.measured.get(self.archs[place].key)
        if found is not None:
            return Timing(found[0], True, found[1], found[2])
        return Timing(runtime.modelled_ms[place], False, error=runtime.error_median)

    def runtime(self, on: str) -> Runtime:
        """The latencies on a runtime; raises :class:`InputError` for an unknown name."""
        if on not in self.runtimes:
            raise InputError(
                f"no latencies on {on!r}", hint=f"choose one of {', '.join(self.runtimes)}"
            )
        return self.runtimes[on]

    def write(self, path: Path) -> None:
        """Writes the latencies as JSON."""
        runtimes = {name: asdict(runtime) for name, runtime in self.runtimes.items()}
        text = sorted_encoder(",", ":")({"format": FORMAT, "runtimes": runtimes})
        write_atomic(path, text + "\n")

    @classmethod
    def read(cls, path: Path, archs: Sequence[Arch]) -> Latencies:
        """The latencies in a file of :meth:`write`; raises :class:`InputError` for other files."""
        try:
            fields: Any = parse_json(read_input(path))
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r}, not {FORMAT}")
            runtimes = {}
            for name, one in fields["runtimes"].items():
                measured = {
                    Arch.parse(key).key: (float(values[0]), float(values[1]), float(values[2]))
                    for key, values in one["measured"].items()
                }
                modelled = tuple(map(float, one["modelled_ms"]))
                if len(modelled) != len(archs):
                    raise ValueError(f"{len(modelled)} latencies of {len(archs)} architectures")
                errors = float(one["error_median"]), float(one["error_p95"])
                runtimes[str(name)] = Runtime(dict(one["about"]), measured, modelled, *errors)
        except (
            OverflowError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
        ) as error:
            raise InputError(
                f"not a file of latencies ({error})", path, "get the file again"
            ) from error
        return cls(tuple(archs), runtimes)
