"""Runs a file on images before it is adopted, so that the meaning of its outputs can be inferred
from their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from rfdetr_repro.spec.errors import InputError

Array = np.ndarray[Any, Any]
PICTURES = 16  # the most images that a proof uses
FIRST = 2  # images that every file is run on


class Probe:
    """Outputs by name on images; the file is run on an image once, and only on demand.

    ``pictures``: functions that give the input float32 (1, 3, H, W) of each image; never empty,
    because a synthetic image replaces missing data.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        name: str,
        pictures: Sequence[Callable[[], Array]],
        path: str | Path,
    ) -> None:
        """Loads the model in ONNX Runtime; raises :class:`InputError` if the model does not
        load.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 2
        try:
            content = model.SerializeToString()
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exception types share no public base class
            raise InputError(
                f"ONNX Runtime cannot load the model ({error})", path, "export the model again"
            ) from error
        self.name = name
        self.pictures = pictures
        self.path = path
        self.names = [value.name for value in self.session.get_outputs()]
        self.found: list[dict[str, Array]] = []

    def outputs(self, count: int = FIRST) -> list[dict[str, Array]]:
        """For the first ``count`` images, or all if there are fewer: output name -> array, with
        floats widened to float32.
        """
        for index in range(len(self.found), min(count, len(self.pictures))):
            feed = {self.name: self.pictures[index]()}
            try:
                values = self.session.run(None, feed)
            except Exception as error:
                raise InputError(
                    f"the model does not run on one image ({error})",
                    self.path,
                    "export the model again",
                ) from error
            self.found.append(
                {name: _wide(value) for name, value in zip(self.names, values, strict=True)}
            )
        return self.found[:count]

    def of(self, name: str, count: int = FIRST) -> list[Array]:
        """The output ``name`` on the first ``count`` images."""
        return [values[name] for values in self.outputs(count)]


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype in (np.float16, np.float64) else value


def stand_in(hw: tuple[int, int]) -> Array:
    """A synthetic input, float32 (1, 3, H, W) in 0..1, where there is no image: patches of colour
    on a gradient, always the same.
    """
    height, width = hw
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows / height, columns / width, np.full((height, width), 0.4)]).astype(
        np.float32
    )
    for _ in range(6):
        top = random.integers(0, height)
        left = random.integers(0, width)
        bottom = top + random.integers(1, height + 1)
        right = left + random.integers(1, width + 1)
        picture[:, top:bottom, left:right] = random.random((3, 1, 1))
    noise = random.normal(0, 0.02, picture.shape)
    return (picture + noise).clip(0, 1).astype(np.float32)[None]


def check_scores(values: Sequence[Array], what: str, path: str | Path) -> None:
    """Raises :class:`InputError` unless all values are finite and within 0..1."""
    for value in values:
        check_finite([value], what, path)
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        if low < -1e-3 or high > 1 + 1e-3:
            seen = (
                f"{what} reach from {low:.4g} to {high:.4g} on a picture and are not scores in 0..1"
            )
            hint = (
                "name the output form with --form; models of keypoints or oriented boxes are not "
                "supported"
            )
            raise InputError(seen, path, hint)


def check_finite(values: Sequence[Array], what: str, path: str | Path) -> None:
    """Raises :class:`InputError` for NaN and positive infinity; a logit of minus infinity rules a
    class out.
    """
    for value in values:
        if np.isnan(value).any() or np.isposinf(value).any():
            hint = (
                "check for an overflow in half precision; export the model in float32, or keep the "
                "overflowing nodes in float32"
            )
            raise InputError(f"{what} are not finite on a picture", path, hint)
