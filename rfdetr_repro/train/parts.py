"""Numbers of a training step that stay on the device until somebody reads one of them.

Each read makes the program wait until the GPU has done everything it was told so far; a step has a
dozen losses, of which a log needs those of every tenth step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .parallel import Ranks


class LossParts(Mapping[str, float]):
    """Numbers by name. The first read copies all of them at once; until then the mapping has names
    only.
    """

    def __init__(self, names: tuple[str, ...], values: Tensor) -> None:
        """``values``: (number of names,), on any device, without gradient."""
        self._names = names
        self.values_on_device = values
        self._read: dict[str, float] | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], ranks: Ranks, device: torch.device) -> LossParts:
        """The scalars by name, each summed over all ranks."""
        values = torch.stack([value.detach() for value in tensors.values()])
        return cls(tuple(tensors), ranks.total(values, device))

    def also(self, name: str, value: Tensor) -> LossParts:
        """The same numbers and one more, a scalar without gradient."""
        values = torch.cat([self.values_on_device, value.reshape(1).to(self.values_on_device)])
        return LossParts((*self._names, name), values)

    @property
    def is_read(self) -> bool:
        """Whether the numbers were copied to this process, so that reading them costs nothing."""
        return self._read is not None

    def __getitem__(self, name: str) -> float:
        if self._read is None:
            self._read = dict(zip(self._names, self.values_on_device.tolist(), strict=True))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))
