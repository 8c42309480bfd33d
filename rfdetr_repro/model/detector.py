"""RF-DETR assembled: ``detector(images, arch)`` runs any architecture of the space with one set of
weights.

``slice(arch)`` cuts out the stand-alone subnet with equal outputs; ``decode_shared`` runs every
decoder depth and query count of a backbone in one pass. The architecture is an argument of each
call, never a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbone_kinds import CONVOLUTIONAL, PLAIN, REGISTERS, ROTARY
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.model_config import ModelConfig

from .backbone import Backbone
from .convnext import ConvNeXt
from .decoder import MLP, Decoder, Source
from .linear import Linear
from .mask_head import MaskFeatures, MaskHead
from .projector import Projector
from .rotary_vit import RotaryViT
from .selection import PRIOR_LOGIT, QuerySelection, Selected, apply_deltas
from .vit import WindowedViT

# kind of a backbone, of spec.backbone_kinds.KINDS -> its class
BACKBONE_CLASSES: dict[str, type[Backbone]] = {
    PLAIN: WindowedViT,
    REGISTERS: WindowedViT,
    ROTARY: RotaryViT,
    CONVOLUTIONAL: ConvNeXt,
}


class Outputs(NamedTuple):
    """What one prediction stage predicts for N queries."""

    logits: Tensor  # (B, N, C), before the sigmoid
    boxes_cxcywh: Tensor  # (B, N, 4), fractions of the image, not clamped
    masks: MaskFeatures | None

    @property
    def mask_logits(self) -> Tensor | None:
        """(B, N, H/4, W/4) or None."""
        return None if self.masks is None else self.masks.logits()

    def float(self) -> Outputs:
        """The same in float32."""
        masks = None if self.masks is None else MaskFeatures(*(x.float() for x in self.masks))
        return Outputs(self.logits.float(), self.boxes_cxcywh.float(), masks)


class TrainingOutputs(NamedTuple):
    """Every supervised stage; N = groups * queries, group-major."""

    layers: list[Outputs]  # decoder layers 1..depth
    encoder: Outputs  # N = groups * min(queries, tokens)

    def float(self) -> TrainingOutputs:
        """The same in float32."""
        return TrainingOutputs([layer.float() for layer in self.layers], self.encoder.float())


class Detector(nn.Module):
    """The supernet, and equally each of its subnets, whose own architecture needs no resampling."""

    def __init__(self, config: ModelConfig, arch: Arch) -> None:
        """A detector with random weights; ``arch`` is the default architecture of a call."""
        super().__init__()
        self.config = config
        self.arch = arch
        self.backbone = BACKBONE_CLASSES[config.backbone](config)
        self.projector = Projector(config)
        self.selection = QuerySelection(config)
        self.decoder = Decoder(config)
        self.class_embed = Linear(config.hidden, config.num_classes)
        self.bbox_embed = MLP((config.hidden, config.hidden, config.hidden, 4), zero_last=True)
        nn.init.constant_(self.class_embed.bias, PRIOR_LOGIT)
        self.mask_head = MaskHead(config) if config.masks else None

    @property
    def input_hw(self) -> tuple[int, int]:
        """(H, W) in px that the detector's own architecture takes."""
        return self.arch.input_hw

    def num_params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def features(self, images: Tensor, patch: int, windows: int) -> list[Tensor]:
        """(B, 3, H, W) ImageNet-normalised -> one map (B, d, h, w) per projector level, P4 at
        H/patch x W/patch.

        Raises :class:`InputError` where H or W is not divisible by patch * windows, and where the
        backbone has no such patch or windows.
        """
        self.config.check_arch(patch, windows)
        if images.shape[-2] % (patch * windows) or images.shape[-1] % (patch * windows):
            size = tuple(images.shape[-2:])
            raise InputError(
                f"image size {size} is not divisible by patch x windows = {patch * windows}",
                hint="resize to Arch.input_hw",
            )
        return self.projector(self.backbone(images, patch, windows))

    def forward(
        self,
        images: Tensor,
        arch: Arch | None = None,
        *,
        masks: bool = True,
        tokens: Tensor | None = None,
    ) -> Outputs:
        """Evaluation: images (B, 3, H, W), normalised -> the outputs of the last decoder layer of
        ``arch`` (default: the detector's own architecture).

        ``masks`` False skips the mask head. ``tokens`` as in :class:`.QuerySelection`. Raises
        :class:`InputError` for more layers or queries than the model stores.
        """
        arch = arch or self.arch
        self.check(arch)
        memory = self.features(images, arch.patch, arch.windows)
        outputs = self.decode_shared(
            memory,
            _hw(images),
            [arch.decoder_layers],
            [arch.queries],
            masks=masks,
            tokens=tokens,
        )
        return outputs[arch.decoder_layers, arch.queries]

    def decode_shared(
        self,
        maps: list[Tensor],
        image_hw: tuple[int, int],
        depths: Iterable[int],
        queries: Iterable[int],
        *,
        masks: bool = True,
        tokens: Tensor | None = None,
    ) -> dict[tuple[int, int], Outputs]:
        """One decoder pass for every (depth, query count); each result equals that of the subnet
        with only these layers and queries.

        ``maps`` comes from :meth:`features`. Depth 0 gives the encoder's outputs (min(queries,
        tokens) rows). ``tokens`` as in :class:`.QuerySelection`.
        """
        depths, counts = sorted(set(depths)), tuple(sorted(set(queries)))
        source = _source(maps)
        selected = self.selection(*source, 1, counts[-1], tokens)
        resized = self._resized(maps, image_hw) if masks else None
        results: dict[tuple[int, int], Outputs] = {}
        if 0 in depths:
            whole = self._encoder_outputs(selected, resized)
            results.update({(0, count): _first(whole, count) for count in counts})
        if depths[-1]:
            parts = [self._references(selected, 1, count) for count in counts]
            references = torch.cat([boxes for boxes, _ in parts], 1)
            content = torch.cat([queries for _, queries in parts])
            states = self.decoder(references, content, counts, source, depths[-1])
            pixels = self._layer_pixels(resized, depths[-1])
            for depth in (depth for depth in depths if depth):
                layer = self._layer_outputs(states[depth - 1], references, pixels[depth - 1])
                results.update(
                    {
                        (depth, count): part
                        for count, part in zip(counts, _split(layer, counts), strict=True)
                    }
                )
        return results

    def training_outputs(
        self, maps: list[Tensor], image_hw: tuple[int, int], arch: Arch
    ) -> TrainingOutputs:
        """Outputs of all layers and all groups.

        ``maps`` comes from :meth:`features`, in float32.
        """
        groups = self.config.groups
        source = _source(maps)
        selected = self.selection(*source, groups, arch.queries)
        resized = self._resized(maps, image_hw)
        references, content = self._references(selected, groups, arch.queries)
        states = self.decoder(
            references, content, (arch.queries,) * groups, source, arch.decoder_layers
        )
        pixels = self._layer_pixels(resized, len(states))
        layers = [
            self._layer_outputs(state, references, maps, training=True)
            for state, maps in zip(states, pixels, strict=True)
        ]
        return TrainingOutputs(layers, self._encoder_outputs(selected, resized, training=True))

    def _references(self, selected: Selected, groups: int, queries: int) -> tuple[Tensor, Tensor]:
        """Reference boxes (B, g*queries, 4) and content (g*queries, d); slots beyond the tokens use
        the raw embedding.
        """
        content, deltas = self.decoder.tables(groups, queries)
        deltas = deltas.unflatten(0, (groups, queries))
        boxes = selected.boxes_cxcywh[:, :, :queries].detach()
        kept = boxes.shape[2]
        references = apply_deltas(deltas[:, :kept], boxes)
        if kept < queries:
            references = torch.cat(
                [references, deltas[:, kept:].expand(len(boxes), -1, -1, -1)], dim=2
            )
        return references.flatten(1, 2), content

    def _resized(self, maps: list[Tensor], image_hw: tuple[int, int]) -> Tensor | None:
        return None if self.mask_head is None else self.mask_head.resized(maps[0], image_hw)

    def _layer_pixels(self, resized: Tensor | None, depth: int) -> Sequence[Tensor | None]:
        if self.mask_head is None or resized is None:
            return [None] * depth
        return self.mask_head.layer_pixels(resized, depth)

    def _layer_outputs(
        self, state: Tensor, references: Tensor, pixels: Tensor | None, training: bool = False
    ) -> Outputs:
        masks = None
        if self.mask_head is not None and pixels is not None:
            factored = self.mask_head.training_features if training else self.mask_head.features
            masks = factored(pixels, state)
        return Outputs(
            self.class_embed(state), apply_deltas(self.bbox_embed(state), references), masks
        )

    def _encoder_outputs(
        self, selected: Selected, resized: Tensor | None, training: bool = False
    ) -> Outputs:
        features, logits, boxes = (part.flatten(1, 2) for part in selected[:3])
        if self.mask_head is None or resized is None:
            return Outputs(logits, boxes, None)
        factored = self.mask_head.training_features if training else self.mask_head.features
        masks = factored(resized, features, project=self.mask_head.encoder_projected)
        return Outputs(logits, boxes, masks)

    def check(self, arch: Arch) -> None:
        """Raises :class:`InputError` for an architecture that the model's weights cannot be."""
        self.config.check_arch(arch.patch, arch.windows)
        if arch.decoder_layers > self.config.decoder_layers or arch.queries > self.config.queries:
            stored = f"{self.config.decoder_layers} layers and {self.config.queries} queries"
            raise InputError(
                f"the model stores {stored}", arch.key, "choose an architecture with at most these"
            )

    @torch.inference_mode(False)  # its weights would never be packed, and could not be trained
    @torch.no_grad()
    def slice(self, arch: Arch) -> Detector:
        """The stand-alone subnet of ``arch`` in evaluation mode, whose outputs equal ``self(images,
        arch)``; an ordinary module, in ``torch.inference_mode`` too. Raises :class:`InputError` for
        more layers or queries than the model stores.
        """
        self.check(arch)
        layers = arch.decoder_layers
        queries = arch.queries
        config = replace(
            self.config,
            patch=arch.patch,
            pos_grid=arch.grid_hw,
            decoder_layers=layers,
            queries=queries,
            groups=1,
        )
        subnet = Detector(config, arch)
        own = self.state_dict()
        for name, tensor in self.backbone.sliced(arch).items():
            own[f"backbone.{name}"] = tensor
        own["decoder.query_feat"], own["decoder.refpoint_embed"] = self.decoder.tables(
            1, arch.queries
        )
        dtype = own["decoder.query_feat"].dtype
        cut = {
            name: own[name][:1] if name.startswith("selection.") else own[name]
            for name in subnet.state_dict()
        }
        subnet.to(dtype).load_state_dict(cut)
        return subnet.eval()


def _hw(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _source(maps: list[Tensor]) -> Source:
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1), [
        _hw(one) for one in maps
    ]


def _first(outputs: Outputs, count: int) -> Outputs:
    masks = (
        None
        if outputs.masks is None
        else outputs.masks._replace(queries=outputs.masks.queries[:, :count])
    )
    return Outputs(outputs.logits[:, :count], outputs.boxes_cxcywh[:, :count], masks)


def _split(outputs: Outputs, counts: tuple[int, ...]) -> list[Outputs]:
    """``outputs`` cut into segments of ``counts`` queries."""
    masks: list[MaskFeatures | None] = [None] * len(counts)
    if outputs.masks is not None:
        masks = [
            outputs.masks._replace(queries=queries)
            for queries in outputs.masks.queries.split(counts, 1)
        ]
    logits = outputs.logits.split(counts, 1)
    boxes = outputs.boxes_cxcywh.split(counts, 1)
    return [Outputs(*part) for part in zip(logits, boxes, masks, strict=True)]
