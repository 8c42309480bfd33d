"""Multi-scale deformable attention, masks from logits and a network's input from pictures as
compiled operators, with their gradients, shape rules and references.

The kernels are in csrc/, one file per device, built by setup.py into one library that this package
loads. Without the library the import fails: there is no silent fallback. :data:`DECOMPOSITIONS`
turns the attention operators into plain ATen for exporters:
``exported.run_decompositions(DECOMPOSITIONS)``. The distribution ``rfdetr-ops`` has a copy of this
package.
"""

from .accelerate import Acceleration, Replaced, accelerate
from .deform_attn import DECOMPOSITIONS, ms_deform_attn, ms_deform_attn_fused
from .distribution import InputError, LibraryNotBuilt
from .library import LIBRARY, build_info
from .linear import (
    HAS_PACKED_LINEAR,
    HAS_SPLIT_LINEAR,
    packed_linear,
    packed_linear_pack,
    split_linear,
    split_linear_pack,
)
from .masks import mask_logits, mask_runs, masks_from_logits
from .pictures import network_input
from .reference import (
    accumulate_dtype,
    box_relative_locations,
    ms_deform_attn_fused_reference,
    ms_deform_attn_reference,
)
from .shared_signature import multi_scale_deformable_attention

__all__ = [
    "DECOMPOSITIONS",
    "HAS_PACKED_LINEAR",
    "HAS_SPLIT_LINEAR",
    "LIBRARY",
    "Acceleration",
    "InputError",
    "LibraryNotBuilt",
    "Replaced",
    "accelerate",
    "accumulate_dtype",
    "box_relative_locations",
    "build_info",
    "mask_logits",
    "mask_runs",
    "masks_from_logits",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_fused_reference",
    "ms_deform_attn_reference",
    "multi_scale_deformable_attention",
    "network_input",
    "packed_linear",
    "packed_linear_pack",
    "split_linear",
    "split_linear_pack",
]
