"""The attention as one node that TensorRT runs by this project's plugin (``csrc/tensorrt``).

TensorRT is reported to compute the GridSample chain of an ordinary export wrongly from 10.14 on.
A file that was exported with ``attention="plugin"`` holds the node DOMAIN::OPERATOR in its place,
which no other runtime knows. The plugin was compiled against the headers of TensorRT 10.4, 10.14
and 11.1 and tested without a GPU; no engine with it has run yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_repro.export.artifact import Artifact, Manifest
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file

DOMAIN = "rfdetr"  # of the node in the file, and the plugin's namespace
OPERATOR = "ms_deform_attn_fused"
VERSION = "1"
ATTENTION = "attention"  # key of a manifest's ``build``
PLUGIN = "plugin"
DECOMPOSED = "decomposed"
ATTENTIONS = (DECOMPOSED, PLUGIN)
LIBRARY = Path(__file__).resolve().parents[1] / "librfdetr_tensorrt.so"
_BUILD = (
    "build it with RFDETR_TENSORRT_INCLUDE=FOLDER python setup.py build_ext --inplace, where "
    "FOLDER holds TensorRT's NvInfer.h"
)


def needs_plugin(manifest: Manifest) -> bool:
    """Whether a file, or the engine that was built from it, holds the plugin's node."""
    return manifest.build.get(ATTENTION) == PLUGIN


def check_runtime(artifact: Artifact, backend: str) -> None:
    """Raises :class:`InputError` for a file with the plugin's node on a backend other than
    TensorRT.
    """
    if needs_plugin(artifact.manifest) and backend != "tensorrt":
        raise InputError(
            f"the attention of this file is a node of this project's TensorRT plugin, which "
            f"{backend} does not run",
            artifact.path,
            f"choose the backend tensorrt, or export the model with --attention {DECOMPOSED}",
        )


def plugin_library() -> Path:
    """The plugin's library; raises :class:`InputError` where it is not built."""
    if not LIBRARY.is_file():
        raise InputError("the TensorRT plugin is not built", LIBRARY, _BUILD)
    return LIBRARY


def plugin_sha256() -> str:
    """The SHA-256 of :func:`plugin_library`."""
    return sha256_file(plugin_library())


def load_plugin(trt: Any) -> None:
    """Makes the plugin known to TensorRT, once in a process; raises :class:`InputError` where the
    library is missing or TensorRT does not take it.
    """
    registry = trt.get_plugin_registry()
    if registry.get_creator(OPERATOR, VERSION, DOMAIN) is not None:
        return
    registry.load_library(str(plugin_library()))
    if registry.get_creator(OPERATOR, VERSION, DOMAIN) is None:
        raise InputError(
            f"TensorRT {trt.__version__} does not take the plugin's library",
            LIBRARY,
            _BUILD.replace("build it", "build it again"),
        )
