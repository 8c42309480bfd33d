"""Passes of the search on the GPU: their APs equal the CPU's, and what a pass costs at full width.
APs that differ fail the step at its end.

The shipped pico supernet is evaluated on embedded pictures for all depths and query counts of four
backbones, on the GPU and on the CPU. The supernet of the paper's size, with random weights, then
takes random pictures: the time of a shared pass of a backbone, and of one decoder pass in it, is
what a search over the paper's 221 backbones costs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.timing import event_ms, host_ms
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import to_device
from rfdetr_repro.records.record import Latency, ModelId
from rfdetr_repro.search.evaluation import GroupEvaluation, by_backbone
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET, PICO, PICO_SPACE, PICO_WEIGHTS
from rfdetr_repro.spec.protocol import Protocol

BACKBONES = 4
BATCH = 8
ALLOWED = 0.002  # difference of an AP: rounding swaps detections of almost equal scores


def spread(space: SearchSpace, count: int) -> list[list[Arch]]:
    """``count`` groups of architectures that share a backbone, evenly from the space."""
    groups = list(by_backbone(space))
    return [groups[round(i * (len(groups) - 1) / max(1, count - 1))] for i in range(count)]


def equal_accuracy(step: Step) -> None:
    """APs of the same passes on both devices, and the times."""
    count = 1 if step.toy else BACKBONES
    with tempfile.TemporaryDirectory() as temporary:
        images = 2 if step.toy else 100
        config = EmbeddedConfig(val_images=images)
        workers = 1 if step.toy else 16
        data = write_embedded(Path(temporary) / "data", config, workers=workers, splits=("val",))
        detector, _, _ = load_supernet(PICO_WEIGHTS)
        split = read_split(data, "val")
        groups = spread(PICO_SPACE, count)
        here = GroupEvaluation(detector, split, masks=True)
        wanted = [here.accuracies(group) for group in groups]
        there = GroupEvaluation(to_device(detector, step.device.type), split, masks=True)
        there.accuracies(groups[0])  # warms up
        largest = 0.0
        for group, expected in zip(groups, wanted, strict=True):
            started = time.perf_counter()
            found = there.accuracies(group)
            seconds = time.perf_counter() - started
            gaps = [
                abs((found[arch][kind].ap or 0.0) - (expected[arch][kind].ap or 0.0))
                for arch in group
                for kind in expected[arch]
            ]
            largest = max(largest, *gaps)
            told = f"largest difference of AP from the CPU's {100 * max(gaps):.3f} points"
            if not max(gaps) <= ALLOWED:
                step.wrong(f"{group[0].key}: {told}")
            tell_pass(step, f"{group[0].key}, {len(group)} configurations", seconds, images, told)
            step.say(
                f"{group[0].key}: {len(group)} configurations on {images} pictures in "
                f"{seconds:.2f} s; {told}"
            )
        step.say(f"largest difference of AP over {count} backbones: {100 * largest:.3f} points")


def tell_pass(step: Step, what: str, seconds: float, images: int, agreement: str) -> None:
    """The evaluation of a backbone's configurations as a Record."""
    step.record(
        ModelId("search", f"pico supernet evaluated, {what}", weights="trained"),
        Latency(1e3 * seconds, num_samples=1, images_per_s=images / seconds),
        Protocol("sustained", "host", 0.0, min_samples=1, max_samples=1, batch=images),
        agreement=agreement,
    )


@torch.inference_mode()
def cost(step: Step) -> None:
    """Times of shared passes at the paper's width, random weights."""
    model, space = (PICO, PICO_SPACE) if step.toy else (PAPER_SUPERNET, PAPER_SPACE)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = step.on_gpu
    detector = Detector(model.model, model.arch).eval().to(step.device)
    measure = event_ms if step.on_gpu else host_ms
    batch = 1 if step.toy else BATCH
    for group in spread(space, 2 if step.toy else 6):
        if step.left_s < 5:
            step.say("the other backbones are left out: the step's time is over")
            return
        first = group[0]
        images = torch.rand(batch, 3, *first.input_hw, device=step.device)
        depths = sorted({arch.decoder_layers for arch in group})
        queries = sorted({arch.queries for arch in group})

        def shared(
            images: torch.Tensor = images,
            first: Arch = first,
            depths: list[int] = depths,
            queries: list[int] = queries,
        ) -> object:
            pairs = [(depth, count) for depth in depths for count in queries]
            maps = detector.features(images, first.patch, first.windows)
            return detector.decode_shared(
                maps,
                first.input_hw,
                [depth for depth, _ in pairs],
                [count for _, count in pairs],
                masks=False,
            )

        shared()
        rounds = 1 if step.toy else 5
        ms = measure(shared, rounds)
        name = f"shared pass of {first.key}, {len(group)} configurations"
        step.record(
            ModelId("search", name, weights="random"),
            Latency(ms, num_samples=rounds, images_per_s=1e3 * batch / ms),
            Protocol(
                "sustained", "device", 0.0, min_samples=rounds, max_samples=rounds, batch=batch
            ),
        )
        products = "TF32" if step.on_gpu else "float32"
        step.say(f"{name}: {ms / batch:.2f} ms a picture, batch {batch}, {products}")


def main() -> None:
    """Both parts."""
    step = Step.of("search_passes", __doc__)
    torch.set_num_threads(1 if step.toy else 8)
    equal_accuracy(step)
    cost(step)
    step.end()


if __name__ == "__main__":
    main()
