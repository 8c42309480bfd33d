"""The causal claims of the paper as data: the sentence, where it stands, what is compared, in which
region the effect must lie, and which study answers it.

Where the paper states no margin for "costs little" or "performs like", the margin is this project's
choice, and ``Expected.words`` says so. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfdetr_repro.records.data_sets import FOUND
from rfdetr_repro.records.record import FINE_TUNING, FIXED, TUNED
from rfdetr_repro.spec.errors import InputError

from .data_sets import PER_LOCATION, OverDataSets, SizeOnLocations
from .pairs import (
    SHARED,
    STUDY,
    AtEqualLatency,
    KnobStep,
    Pairing,
    SameFile,
    SameTokens,
    Side,
    Sides,
)

AP = "AP"
LATENCY = "latency"
UNITS = {AP: "points", LATENCY: "%", PER_LOCATION: "% of the image per patch"}
ALONE = "trained alone"
_RF100 = "rfdetr-repro rf100 --data DIR --out OUT"


@dataclass(frozen=True)
class Expected:
    """The region of effects of which the claim is true, in the unit of the comparison; None: no
    bound on that side.
    """

    words: str
    least: float | None = None
    most: float | None = None

    @property
    def margin(self) -> bool:
        """Whether a bound is another number than 0."""
        return bool(self.least) or bool(self.most)


@dataclass(frozen=True)
class Comparison:
    """One measurable part of a claim. The effect is that of the second side minus the first.

    ``of_training``: other trainings could give another answer, so that only seeds decide.
    ``study``: id of the study that writes the Records; "" where another command does, or nothing in
    this package can. ``command``: what writes the Records. ``missing``: what is not there.
    """

    id: str
    what: str
    expected: Expected
    pairing: Pairing | None
    measure: str = AP
    of_training: bool = False
    study: str = ""
    command: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper."""

    id: str
    sentence: str
    place: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Trained:
    """A side that a study trains with every seed: the pico size, by its recipe with ``settings``
    changed; ``shared``: as a supernet of the pico space instead of alone.
    """

    variant: str
    settings: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class Study:
    """What ``claims --run ID`` does. Without ``trained`` it evaluates given weights of a supernet;
    ``knobs`` are then the knobs that are varied.
    """

    id: str
    words: str
    trained: tuple[Trained, ...] = ()


def _run(study: str) -> str:
    return f"rfdetr-repro claims --run {study} --out DIR"


def _recipe(
    number: int, what: str, variant: str, expected: Expected, *, reverse: bool = False
) -> Comparison:
    """A change of the recipe, against the recipe of the pico size: ``reverse`` where the claim is
    about what the recipe has and the change takes away.
    """
    base = Side("the recipe", (STUDY,), (ALONE,))
    changed = Side(variant, (STUDY,), (variant,))
    sides = Sides(changed, base) if reverse else Sides(base, changed)
    return Comparison(
        f"5.{number}",
        what,
        expected,
        sides,
        of_training=True,
        study="recipe",
        command=_run("recipe"),
    )


NO_CLIP = "without a gradient clip"
NO_EMA = "without EMA"
LAYER_DECAY = "layer decay 0.8"
NO_COOLDOWN = "without a cooldown"
GAIN = Expected("a gain: above 0", least=0)
LOSS = Expected("a loss: below 0", most=0)

STUDIES: dict[str, Study] = {
    study.id: study
    for study in (
        Study(
            "weights",
            "every configuration of the pico space with the weights of the package, on the "
            "embedded val split; minutes",
        ),
        Study(
            "sharing",
            "the base architecture of pico, trained alone and inside the supernet with as many "
            "steps; hours",
            (Trained(ALONE), Trained(SHARED, shared=True)),
        ),
        Study(
            "recipe",
            "the base architecture of pico, trained by its recipe and with one setting changed; "
            "hours",
            (
                Trained(ALONE),
                Trained(NO_CLIP, ("clip_norm=1e9",)),
                Trained(NO_EMA, ("ema_decay=0",)),
                Trained(LAYER_DECAY, ("layer_decay=0.8",)),
                Trained(NO_COOLDOWN, ("cooldown_share=0",)),
            ),
        ),
    )
}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "1",
        "Weight sharing regularises: inside the supernet the base architecture becomes more "
        "accurate than alone.",
        "Table 5, +0.3 AP",
        (
            Comparison(
                "1.1",
                "base architecture trained inside the supernet, against alone, as many steps",
                GAIN,
                Sides(Side("alone", (STUDY,), (ALONE,)), Side("shared", (STUDY,), (SHARED,))),
                of_training=True,
                study="sharing",
                command=_run("sharing"),
            ),
        ),
    ),
    Claim(
        "2",
        "Architectures that training never drew perform like architectures that it drew.",
        "version 1 Appendix H, version 2 Appendix L",
        (
            Comparison(
                "2.1",
                "patch sizes that were never drawn, against drawn ones with as many tokens",
                Expected("within 1 point (a margin chosen here)", least=-1, most=1),
                SameTokens(),
                command="rfdetr-repro family --model RUN --data DIR",
            ),
        ),
    ),
    Claim(
        "3",
        "Fine-tuning after the search adds little on the searched set, and more on small sets.",
        "Tables 15 to 17",
        (
            Comparison(
                "3.1",
                "a found architecture after fine-tuning, against before",
                GAIN,
                Sides(
                    Side("as searched", (FINE_TUNING,), ("nas",)),
                    Side("fine-tuned", (FINE_TUNING,), (TUNED,)),
                ),
                of_training=True,
                command="rfdetr-repro finetune --model RUN --arch KEY --data DIR --out OUT",
            ),
            Comparison(
                "3.2",
                "found and fine-tuned, against found, over data sets",
                GAIN,
                OverDataSets(FOUND, TUNED),
                of_training=True,
                command=_RF100,
            ),
        ),
    ),
    Claim(
        "4",
        "Decoder layers and queries can be dropped at test time at a small cost.",
        "Figure 4 and Appendix B: about 2 AP for the last decoder layer, nothing significant for "
        "100 of 300 queries",
        (
            Comparison(
                "4.1",
                "the last decoder layer dropped, against kept",
                Expected("a loss of at most 2 points", least=-2),
                KnobStep("decoder_layers", largest=True),
                study="weights",
                command=_run("weights"),
            ),
            Comparison(
                "4.2",
                "the queries of lowest confidence dropped (one step of the space), against kept",
                Expected("a loss of at most 1 point (a margin chosen here)", least=-1),
                KnobStep("queries", largest=True),
                study="weights",
                command=_run("weights"),
            ),
            Comparison(
                "4.3",
                "training that draws depth and queries, against training that draws the deepest",
                Expected("a smaller loss at test time"),
                None,
                of_training=True,
                missing="training has no setting that draws depth and queries",
            ),
        ),
    ),
    Claim(
        "5",
        "Gentle training: batch-level resize, no schedule, layer-wise decay, a gradient clip of "
        "0.1 and EMA.",
        "Table 5, Section 3 and Appendix A",
        (
            Comparison(
                "5.1",
                "batch-level resize, against padding",
                GAIN,
                None,
                of_training=True,
                missing="training has no padding",
            ),
            _recipe(
                2,
                "no schedule, against a linear cooldown over the last quarter",
                NO_COOLDOWN,
                Expected("a loss of at most 1 point (a margin chosen here)", least=-1),
            ),
            _recipe(3, "layer-wise decay 0.8, against none", LAYER_DECAY, GAIN),
            _recipe(4, "a gradient clip of 0.1, against none", NO_CLIP, GAIN, reverse=True),
            _recipe(5, "EMA, against none", NO_EMA, GAIN, reverse=True),
        ),
    ),
    Claim(
        "6",
        "A pretrained DINOv2 backbone is better than another backbone.",
        "Table 6",
        (
            Comparison(
                "6.1",
                "DINOv2, pretrained, against other backbones",
                GAIN,
                None,
                of_training=True,
                command="rfdetr-repro backbones --out OUT",
                missing="the package holds no pretrained backbone; the command compares backbones "
                "from random weights and prints its own intervals",
            ),
        ),
    ),
    Claim(
        "7",
        "An architecture searched for each data set is better than one fixed architecture, and "
        "statistics of the data predict the knobs.",
        "Table 17, Figure 5, version 2 Table 17",
        (
            Comparison(
                "7.1",
                "searched for each data set, against one architecture, over data sets",
                GAIN,
                OverDataSets(FIXED, FOUND),
                of_training=True,
                command=_RF100,
            ),
            Comparison(
                "7.2",
                "size of objects, on spatial locations of the found architecture (a line through "
                "the data sets)",
                Expected("smaller objects get more locations: a slope below 0", most=0),
                SizeOnLocations(),
                measure=PER_LOCATION,
                of_training=True,
                command=_RF100,
            ),
        ),
    ),
    Claim(
        "8",
        "Each knob of the space matters by itself.",
        "Figure 3; Table 5 for windows, patch and resolution",
        (
            Comparison(
                "8.1",
                "half as many windows per side, against twice as many",
                GAIN,
                KnobStep("windows"),
                study="weights",
                command=_run("weights"),
            ),
            Comparison(
                "8.2",
                "the next smaller resolution",
                LOSS,
                KnobStep("resolution"),
                study="weights",
                command=_run("weights"),
            ),
            Comparison(
                "8.3",
                "the next smaller patch",
                GAIN,
                KnobStep("patch"),
                study="weights",
                command=_run("weights"),
            ),
            Comparison(
                "8.4",
                "queries ranked by the encoder's confidence, against another order",
                GAIN,
                None,
                missing="no other order of the queries is implemented",
            ),
            Comparison(
                "8.5",
                "a copy of the class token in each window, against none",
                GAIN,
                None,
                of_training=True,
                missing="a model without these copies is not implemented",
            ),
        ),
    ),
    Claim(
        "9",
        "A wait of 200 ms before each pass keeps the device from throttling, so that latencies are "
        "lower and can be reproduced.",
        "Table 1, version 2 Table 20",
        (
            Comparison(
                "9.1",
                "median latency with a wait of 200 ms, against a closed loop, same files",
                LOSS,
                SameFile(
                    Side("closed loop", modes=("sustained",)), Side("200 ms", modes=("buffered",))
                ),
                measure=LATENCY,
                command="rfdetr-repro bench --model FILE --data DIR",
            ),
        ),
    ),
    Claim(
        "10",
        "A naive FP16 export destroys D-FINE, and opset 17 repairs the export.",
        "Table 1: 0.5 AP",
        (
            Comparison(
                "10.1",
                "FP16 from opset 17, against opset 16, same weights",
                GAIN,
                None,
                missing="needs weights of D-FINE and TensorRT",
            ),
        ),
    ),
    Claim(
        "11",
        "RF-DETR is more accurate than rivals at equal latency.",
        "Tables 2, 4 and 12; here with an equal budget of training",
        (
            Comparison(
                "11.1",
                "RF-DETR, against rivals trained alike, at equal latency (mean over the rivals)",
                GAIN,
                AtEqualLatency(),
                of_training=True,
                command="rfdetr-repro train-rival --model rfdetr-pico,dfine-pico --data DIR "
                "--out OUT",
            ),
        ),
    ),
)


def claims_named(name: str | None, study: str | None = None) -> tuple[Claim, ...]:
    """The claim with this id, or all; with ``study`` only claims that this study is about. Raises
    :class:`InputError` for an unknown id, and for a claim that the study is not about.
    """
    known = [
        claim
        for claim in CLAIMS
        if study is None or any(part.study == study for part in claim.comparisons)
    ]
    found = tuple(claim for claim in known if name in (None, claim.id))
    if not found:
        what = f"unknown claim {name!r}"
        if name in [claim.id for claim in CLAIMS]:
            what = f"the study {study} is not about claim {name}"
        ids = ", ".join(claim.id for claim in known)
        raise InputError(what, "--claim", f"choose one of {ids}")
    return found
