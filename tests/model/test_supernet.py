"""One weight, many architectures: a sliced subnet equals the supernet at that architecture, over
the corners of the space.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny import SPACE, images_for, tiny_detector

from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

CORNERS = [
    Arch(*knobs)
    for knobs in product(
        *((min(axis), max(axis)) for axis in (SPACE.resolutions, SPACE.patches, SPACE.windows)),
        (0, 1, 2),
        (3, 10),
    )
] + [Arch(48, 8, 1, 2, 10, 80), Arch(96, 12, 2, 1, 7, 64), Arch(32, 16, 2, 0, 3, 128)]


@pytest.mark.parametrize("arch", CORNERS, ids=lambda arch: arch.key)
@torch.no_grad()
def test_slice_equals_supernet(arch: Arch) -> None:
    supernet = tiny_detector()
    images = images_for(arch)
    subnet = supernet.slice(arch)
    expected = supernet(images, arch)
    found = subnet(images)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    assert torch.allclose(found.boxes_cxcywh, expected.boxes_cxcywh, atol=1e-5)
    assert torch.allclose(found.mask_logits, expected.mask_logits, atol=1e-4)
    assert subnet.num_params() < supernet.num_params()


def test_a_subnet_is_an_ordinary_module_in_every_mode() -> None:
    """Tensors that are made in inference mode cannot be trained, and are never packed."""
    supernet = tiny_detector()
    arch = Arch(64, 8, 1, 2, 10)  # with a patch kernel that is resampled
    with torch.inference_mode():
        subnet = supernet.slice(arch)
    assert not any(one.is_inference() for one in subnet.state_dict().values())
    subnet(images_for(arch)).logits.sum().backward()
    assert subnet.class_embed.weight.grad is not None and supernet.class_embed.weight.grad is None
    with torch.inference_mode():
        made_there = tiny_detector()
        again = made_there.slice(arch)
    for name, value in again.state_dict().items():
        assert not value.is_inference() and torch.equal(value, subnet.state_dict()[name]), name


@torch.no_grad()
def test_shared_decoding_equals_each_subnet() -> None:
    supernet = tiny_detector()
    backbone = Arch(64, 16, 2, 2, 10)
    images = images_for(backbone)
    maps = supernet.features(images, 16, 2)
    shared = supernet.decode_shared(maps, images.shape[-2:], SPACE.decoder_layers, SPACE.queries)
    assert len(shared) == 9
    for (depth, queries), outputs in shared.items():
        alone = supernet.slice(Arch(64, 16, 2, depth, queries))(images)
        assert outputs.logits.shape[1] == queries
        assert torch.allclose(outputs.logits, alone.logits, atol=1e-5)
        assert torch.allclose(outputs.mask_logits, alone.mask_logits, atol=1e-4)


@torch.no_grad()
def test_query_dropping_keeps_the_most_confident() -> None:
    supernet = tiny_detector()
    images = images_for(Arch(64, 8, 1, 0, 10))
    few, many = (
        supernet(images, Arch(64, 8, 1, 0, queries)).logits.amax(-1) for queries in (3, 10)
    )
    # products of 3 and of 10 rows may add in another order
    assert torch.allclose(few, many[:, :3], atol=1e-6)
    assert (many[:, :-1] >= many[:, 1:] - 1e-6).all()


@torch.no_grad()
def test_fewer_tokens_than_queries() -> None:
    """48 px at patch 16 gives 9 tokens for 10 queries: the last slot keeps its learned
    reference.
    """
    arch = Arch(48, 16, 1, 2, 10)
    outputs = tiny_detector()(images_for(arch), arch)
    assert outputs.logits.shape[1] == 10 and outputs.logits.isfinite().all()
    assert tiny_detector()(images_for(arch), Arch(48, 16, 1, 0, 10)).logits.shape[1] == 9


@torch.no_grad()
def test_batch_equals_single_images() -> None:
    supernet = tiny_detector()
    images = images_for(Arch(64, 16, 2, 2, 10), 3)
    whole = supernet(images, Arch(64, 16, 2, 2, 10)).logits
    single = torch.cat([supernet(image[None], Arch(64, 16, 2, 2, 10)).logits for image in images])
    assert torch.allclose(whole, single, atol=1e-5)


def test_training_groups_do_not_see_each_other() -> None:
    supernet = tiny_detector()
    arch = Arch(64, 16, 1, 2, 10)
    maps = supernet.features(images_for(arch), 16, 1)
    outputs = supernet.training_outputs(maps, (64, 64), arch)
    assert outputs.layers[-1].logits.shape == (2, 30, 18)
    outputs.layers[-1].logits[:, :10].sum().backward()
    table = supernet.decoder.query_feat.grad.unflatten(0, (3, 10))
    assert table[0].abs().sum() > 0 and table[1:].abs().sum() == 0


@torch.no_grad()
def test_group_zero_of_training_is_evaluation() -> None:
    supernet = tiny_detector()
    arch = Arch(64, 16, 1, 2, 7)
    images = images_for(arch)
    outputs = supernet.training_outputs(supernet.features(images, 16, 1), (64, 64), arch)
    assert torch.allclose(
        outputs.layers[-1].logits[:, :7], supernet(images, arch).logits, atol=1e-5
    )


def test_architecture_beyond_the_weights_is_refused() -> None:
    with pytest.raises(InputError, match="2 layers and 10 queries"):
        tiny_detector()(torch.zeros(1, 3, 64, 64), Arch(64, 16, 1, 3, 10))
    with pytest.raises(InputError, match="not divisible by patch x windows"):
        tiny_detector()(torch.zeros(1, 3, 60, 64), Arch(64, 16, 1, 2, 10))


@torch.no_grad()
def test_top_k_is_capped_and_ranked() -> None:
    arch = Arch(64, 16, 1, 1, 3)
    ranked = top_k(tiny_detector()(images_for(arch), arch), 1000)
    assert ranked.scores.shape == (2, 3 * 18) and (ranked.scores.diff(dim=1) <= 0).all()
    assert ranked.labels.max() < 18 and ranked.mask_logits.shape == (2, 54, 16, 16)


def test_rectangular_images_run() -> None:
    with torch.no_grad():
        assert (
            tiny_detector()(torch.zeros(1, 3, 64, 96), Arch(64, 16, 2, 2, 10))
            .logits.isfinite()
            .all()
        )
