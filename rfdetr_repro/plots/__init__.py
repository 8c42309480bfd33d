"""The paper's figures and a campaign's own, drawn from stored numbers.

This module does not import PyTorch.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "decoder_plot": "figures",
        "detections_figure": "figures",
        "knob_plot": "figures",
        "pareto_plot": "figures",
        "pictures_figure": "figures",
        "published_figure": "figures",
        "rivals_figure": "figures",
        "sensitivity_plot": "figures",
        "training_plot": "figures",
    },
)
