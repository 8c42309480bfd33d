"""Models that run in PyTorch only: the paper's rows with a star. Their artifact is a recipe, a JSON
file with name and seed.

These models cannot be exported as a graph. Their rows are marked by the runtime,
torch-DEVICE-eager, and by weights "random": the rows hold latency, parameters and operations, never
accuracy.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version

import torch

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.baseline import SEED, ExportRequest
from rfdetr_repro.baselines.catalog import Entry
from rfdetr_repro.baselines.library import LibraryBaseline
from rfdetr_repro.export.artifact import MODULE, Artifact, Manifest, TensorSpec, write_artifact
from rfdetr_repro.export.contract import Array, check_images, content_of
from rfdetr_repro.export.onnx.nms import MOST
from rfdetr_repro.model.detector import Outputs
from rfdetr_repro.model.postprocess import Ranked, top_k
from rfdetr_repro.ops.device import choose_device, torch_threads
from rfdetr_repro.runtime.session import Detections, Session, identity_of
from rfdetr_repro.spec.files import sha256_bytes

from .counters import flopcountermode

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def write_recipe(entry: Entry, request: ExportRequest) -> Artifact:
    """The artifact of a baseline that no file can be made of; counted on shapes, nothing is run."""
    size = entry.size
    content = json.dumps({"model": size.id, "seed": SEED, "form": "evaluated"}).encode()
    with torch.device("meta"):
        module = catalog.module(size.id, "evaluated")
        images = torch.empty(1, 3, *size.hw)
    versions = {name: version(name) for name in _packages(entry)}
    names = ("scores", "float32"), ("labels", "int64"), ("boxes", "float32")
    manifest = Manifest(
        sha256=sha256_bytes(content),
        size_bytes=len(content),
        model=replace(request.model, weights="random"),
        class_names=(),
        category_ids=(),
        inputs=(TensorSpec("images", (1, 3, *size.hw), "float32"),),
        outputs=tuple(TensorSpec(name, (), dtype) for name, dtype in names),
        params=sum(parameter.numel() for parameter in module.parameters()),
        flops=int(flopcountermode(module, images).flops),
        format=MODULE,
        packages=versions | {"star": entry.baseline.torch_only},
    )
    return write_artifact(request.path, content, manifest)


def _packages(entry: Entry) -> tuple[str, ...]:
    """Distributions whose version decides what the recipe makes."""
    library = ("transformers",) if isinstance(entry.baseline, LibraryBaseline) else ()
    return (*library, entry.distribution) if entry.is_plug_in else library


class ModuleSession(Session):
    """The library's own module, run eagerly on the GPU if there is one, else on the CPU."""

    def __init__(self, artifact: Artifact, threads: int = 2) -> None:
        """Builds the module that the recipe names, with seeded random weights; ``threads`` CPU
        threads are used during :meth:`launch`.
        """
        recipe = json.loads(content_of(artifact, MODULE))
        device = choose_device()
        module = catalog.module(recipe["model"], recipe["form"])
        self.manifest = artifact.manifest
        self._module = module.to(device)
        self._threads = threads
        self._mean, self._std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (MEAN, STD)
        )
        self._images = torch.zeros(artifact.manifest.inputs[0].shape, device=device)
        self._ranked: Ranked | None = None
        settings = f"threads={threads} torch={torch.__version__}"
        self.artifact_id = identity_of(artifact, f"torch-{device.type}-eager", settings)

    def bind(self, images: Array) -> None:
        """Copies float32 (1, 3, H, W) images to the device."""
        self._images.copy_(torch.from_numpy(check_images(images, self.manifest)))

    @torch.inference_mode()
    def launch(self) -> None:
        """Runs normalisation, the model, and the ranking of the (query, class) pairs; a class is a
        token of the prompt.
        """
        with torch_threads(self._threads):
            boxes, logits = self._module((self._images - self._mean) / self._std)
            self._ranked = top_k(Outputs(logits, boxes, None), MOST)
        if self._images.is_cuda:
            torch.cuda.synchronize()

    def outputs(self) -> Detections:
        """Copies the ranked detections to host memory."""
        if self._ranked is None:
            raise RuntimeError("outputs are read before launch")
        return Detections.of([value.cpu().numpy() for value in self._ranked if value is not None])
