"""The arguments that choose the deployment of the found models, for every command that has them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.protocol import BACKENDS, DEPLOYED_PRECISIONS, IN_TORCH

if TYPE_CHECKING:
    from .deployment import Deployment


def add_deployment(
    add: Callable[..., Any], backend: str = "onnxruntime", precision: str = "fp32"
) -> None:
    """Adds ``--backend``, ``--precision`` and ``--cuda-graph`` by an ``add_argument``; what is not
    given is None, and the help text names ``backend`` and ``precision`` as the defaults.
    """
    add(
        "--backend",
        choices=BACKENDS,
        help="runtime of the deployed models, on which latencies are measured; "
        f"{' and '.join(IN_TORCH)} run a file for PyTorch, the others an ONNX file or an engine "
        f"(default: {backend})",
    )
    add(
        "--precision",
        choices=DEPLOYED_PRECISIONS,
        help="precision of the deployed models; bf16 only with "
        f"{' and '.join(IN_TORCH)} (default: {precision})",
    )
    add(
        "--cuda-graph",
        action="store_true",
        help="run the deployed models as a CUDA graph; torch-graph does so in any case",
    )


def deployment_of(args: argparse.Namespace) -> Deployment:
    """The deployment that the arguments name. Raises :class:`InputError` for a combination that
    does not exist.
    """
    from .deployment import Deployment

    return Deployment(
        args.backend or Deployment.backend,
        args.precision or Deployment.precision,
        args.cuda_graph,
    )
