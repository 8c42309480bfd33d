"""The benchmark's space: what the weights of the pico supernet can express, finer than the space
that a campaign searches.
"""

from __future__ import annotations

from rfdetr_repro.spec.arch import Arch, SearchSpace

# 85 backbones x 27 decoders = 2,295 architectures. Training drew resolutions 96, 128 and 160,
# patches 12, 16 and 20, one or two windows, all decoder layers and all queries; everything else is
# read from the shared weights without training
SPACE = SearchSpace(
    tuple(range(80, 177, 16)),
    tuple(range(12, 25, 2)),
    (1, 2, 4),
    (0, 1, 2),
    (5, 7, 10, 12, 15, 17, 20, 22, 25),
)


def form(arch: Arch) -> tuple[int, ...]:
    """What is the same for all resolutions that round to the same input: height and width in px,
    patch, windows, decoder layers and queries.
    """
    return (*arch.backbone, arch.decoder_layers, arch.queries)
