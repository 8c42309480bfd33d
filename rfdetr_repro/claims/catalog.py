"""The causal claims of the paper as data: the sentence, where it stands, what is compared, in which
region the effect must lie, and which study (:mod:`.studies`) answers it.

Where the paper states no margin for "costs little" or "performs like", the margin is this project's
choice, and ``Expected.words`` says so; a margin that was chosen after the first result says that,
too. No torch here.
"""

from __future__ import annotations

from dataclasses import replace

from rfdetr_repro.records.data_sets import FOUND
from rfdetr_repro.records.record import FINE_TUNING, FIXED, TUNED
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO

from .comparison import LATENCY, TAIL, Claim, Comparison, Expected
from .data_sets import (
    PER_LOCATION,
    OverDataSets,
    RivalsAtEqualLatency,
    RivalsOverDataSets,
    SizeOnLocations,
)
from .pairs import (
    SHARED,
    STUDY,
    AnyOf,
    KnobStep,
    Pairing,
    SameFile,
    SameTokens,
    Side,
    Sides,
    StepAgainst,
)
from .studies import (
    ALONE,
    CONVNEXT,
    COPIES,
    COSINE,
    DINOV3,
    DRAWN,
    FLOAT32,
    HALF_16,
    HALF_17,
    LAYER_DECAY,
    NO_CLIP,
    NO_COOLDOWN,
    NO_EMA,
    ONE_TOKEN,
    PADDED,
    PRE_CONVNEXT,
    PRE_DINOV2,
    PRE_DINOV3,
    RANDOM_BACKBONE,
    STARTS,
    TUNED_AFTER,
    UNRANKED,
    WEIGHTS,
)

FORMS_ALONE = "the claim is about ways of pretraining, and these backbones differ in form alone"
_AFTER = "a margin chosen here after the first result"
_RF100 = "rfdetr-repro rf100 --data DIR --out OUT"
_RIVALS = "rfdetr-repro train-rival --model rfdetr-pico,dfine-pico --data DIR --out OUT"


def _run(study: str) -> str:
    return f"rfdetr-repro claims --run {study} --out DIR"


def _trained(
    id: str,
    what: str,
    first: str,
    second: str,
    expected: Expected,
    study: str,
    arch: Arch | None = None,
) -> Comparison:
    """Two sides that a study trains, with equal seeds; ``arch``: only this architecture."""
    sides = Sides(Side(first, (STUDY,), (first,)), Side(second, (STUDY,), (second,)), arch)
    return Comparison(
        id, what, expected, sides, of_training=True, studies=(study,), command=_run(study)
    )


def _half(number: int, what: str, first: str, second: str, expected: Expected) -> Comparison:
    """Two forms of the same files of D-FINE."""
    sides = Sides(Side(first, (STUDY,), (first,)), Side(second, (STUDY,), (second,)))
    missing = "python -m benchmarks.studies.half_opsets of the repository emulates FP16 on a CPU"
    return Comparison(f"10.{number}", what, expected, sides, missing=missing)


def _recipe(
    number: int, what: str, variant: str, expected: Expected, *, reverse: bool = False
) -> Comparison:
    """A change of the recipe, against the recipe of the pico size: ``reverse`` where the claim is
    about what the recipe has and the change takes away.
    """
    first, second = (variant, ALONE) if reverse else (ALONE, variant)
    return _trained(f"5.{number}", what, first, second, expected, "recipe")


def _backbones(
    number: int, what: str, first: str, second: str, study: str = "backbones"
) -> Comparison:
    """Two backbones below the same decoder. The claim is about ways of pretraining: forms of
    backbone that were pretrained alike, or not at all, do not decide the claim.
    """
    found = _trained(f"6.{number}", what, first, second, GAIN, study)
    aside = "" if second == ALONE else FORMS_ALONE
    return replace(found, own_start=second == RANDOM_BACKBONE, aside=aside)


def _tuned_from(start: str) -> Sides:
    """Architectures of supernets that a study trained from ``start``, as trained there and after
    further training.
    """
    words = STARTS[start]
    return Sides(
        Side("as searched", (STUDY,), (SHARED,), start=words),
        Side("fine-tuned", (STUDY,), (TUNED_AFTER,), start=words),
    )


GAIN = Expected("a gain", least=0)
LOSS = Expected("a loss", most=0)
LAYER_LOSS = Expected("a loss of at most 2 points (the loss that the paper observes)", least=-2)
MORE_KEPT = Expected("more AP kept", least=0)


def _dropping(number: int, what: str, expected: Expected, pairing: Pairing) -> Comparison:
    """What the study of dropped layers and queries answers."""
    return Comparison(
        f"4.{number}",
        what,
        expected,
        pairing,
        of_training=True,
        studies=("dropping",),
        command=_run("dropping"),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "1",
        "Weight sharing regularises: inside the supernet the base architecture becomes more "
        "accurate than alone.",
        "Table 5, +0.3 AP",
        (
            _trained(
                "1.1",
                "base architecture trained inside the supernet, against alone, as many steps",
                ALONE,
                SHARED,
                GAIN,
                "sharing",
                PICO.arch,
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
                studies=("sharing", "weights"),
                command=_run("sharing"),
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
                "a found architecture after fine-tuning, against before, on the set that was "
                "searched",
                Expected(
                    f"a gain of at most 1 point ({_AFTER})",
                    least=0,
                    most=1,
                ),
                AnyOf(
                    (
                        Sides(
                            Side("as searched", (FINE_TUNING,), ("nas",)),
                            Side("fine-tuned", (FINE_TUNING,), (TUNED,)),
                        ),
                        _tuned_from(WEIGHTS),
                    )
                ),
                of_training=True,
                studies=("finetuning",),
                command=_run("finetuning") + " --data DATA --start weights",
            ),
            Comparison(
                "3.2",
                "found and fine-tuned, against found, over small data sets",
                GAIN,
                OverDataSets(FOUND, TUNED),
                of_training=True,
                command=_RF100,
            ),
            Comparison(
                "3.3",
                "two architectures of a supernet, after fine-tuning for half as many steps, "
                "against before",
                GAIN,
                AnyOf(tuple(_tuned_from(start) for start in STARTS if start != WEIGHTS)),
                of_training=True,
                studies=("finetuning",),
                command=_run("finetuning"),
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
                LAYER_LOSS,
                KnobStep("decoder_layers", largest=True),
                studies=("weights", "sharing"),
                command=_run("weights"),
            ),
            Comparison(
                "4.2",
                "the queries of lowest confidence dropped (one step of the space), against kept",
                Expected("a loss of at most 1 point (a margin chosen here)", least=-1),
                KnobStep("queries", largest=True),
                studies=("weights", "sharing"),
                command=_run("weights"),
            ),
            _dropping(
                3,
                "AP kept without the last decoder layer: training that draws depth and queries "
                "(version 1), against training that draws none (version 2)",
                MORE_KEPT,
                StepAgainst("decoder_layers", ALONE, DRAWN),
            ),
            _dropping(
                4,
                "AP kept without the queries of lowest confidence: training that draws depth and "
                "queries, against training that draws none",
                MORE_KEPT,
                StepAgainst("queries", ALONE, DRAWN),
            ),
            _dropping(
                5,
                "the last decoder layer dropped after training that draws depth and queries, "
                "against kept",
                LAYER_LOSS,
                KnobStep("decoder_layers", largest=True, variants=(DRAWN,)),
            ),
            _dropping(
                6,
                "the last decoder layer dropped after training that draws none, against kept",
                LAYER_LOSS,
                KnobStep("decoder_layers", largest=True, variants=(ALONE,)),
            ),
        ),
    ),
    Claim(
        "5",
        "Gentle training: batch-level resize, no schedule, layer-wise decay, a gradient clip of "
        "0.1 and EMA.",
        "Table 5, Section 3 and Appendix A",
        (
            _recipe(
                1,
                "pictures resized to the whole input, against padded to keep their aspect ratio",
                PADDED,
                GAIN,
                reverse=True,
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
            _trained(
                "5.6",
                "no schedule, against a cosine schedule over the whole training",
                COSINE,
                NO_COOLDOWN,
                Expected("a loss of at most 1 point (a margin chosen here)", least=-1),
                "recipe",
            ),
        ),
    ),
    Claim(
        "6",
        "A backbone pretrained as DINOv2 is better than a backbone pretrained in another way.",
        "Table 6",
        (
            _backbones(
                1,
                "DINOv2's form pretrained on objects, against the same form from random weights",
                RANDOM_BACKBONE,
                ALONE,
            ),
            _backbones(
                2,
                "DINOv2's form, against DINOv3's form, both from random weights",
                DINOV3,
                RANDOM_BACKBONE,
            ),
            _backbones(
                3,
                "DINOv2's form, against ConvNeXt, both from random weights",
                CONVNEXT,
                RANDOM_BACKBONE,
            ),
            _backbones(
                4,
                "DINOv2's form, against DINOv3's form, both pretrained alike",
                PRE_DINOV3,
                PRE_DINOV2,
                "forms",
            ),
            _backbones(
                5,
                "DINOv2's form, against ConvNeXt, both pretrained alike",
                PRE_CONVNEXT,
                PRE_DINOV2,
                "forms",
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
                Expected("a slope below 0, so that smaller objects get more locations", most=0),
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
                studies=("weights", "sharing"),
                command=_run("weights"),
            ),
            Comparison(
                "8.2",
                "the next smaller resolution, against the larger",
                LOSS,
                KnobStep("resolution"),
                studies=("weights", "sharing"),
                command=_run("weights"),
            ),
            Comparison(
                "8.3",
                "the next smaller patch, against the larger",
                GAIN,
                KnobStep("patch"),
                studies=("weights", "sharing"),
                command=_run("weights"),
            ),
            Comparison(
                "8.4",
                "queries of the lowest confidence dropped, against as many dropped at random",
                GAIN,
                Sides(Side("random", (STUDY,), (UNRANKED,)), Side("ranked", (STUDY,), (None,))),
                studies=("order",),
                command=_run("order"),
            ),
            _trained(
                "8.5",
                "a copy of the class token in each window, against one class token",
                ONE_TOKEN,
                COPIES,
                GAIN,
                "tokens",
            ),
        ),
    ),
    Claim(
        "9",
        "A wait of 200 ms before each pass keeps a GPU from throttling, so that latencies are "
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
                of_gpu=True,
                command="rfdetr-repro bench --model FILE --data DIR",
            ),
            Comparison(
                "9.2",
                "how far the slowest tenth of the passes lies above the median: with a wait of 200 "
                "ms, against a closed loop, same files",
                LOSS,
                SameFile(
                    Side("closed loop", modes=("sustained",)), Side("200 ms", modes=("buffered",))
                ),
                measure=TAIL,
                of_gpu=True,
                command="rfdetr-repro bench --model FILE --data DIR",
            ),
        ),
    ),
    Claim(
        "10",
        "A naive FP16 export destroys D-FINE, and opset 17 repairs the export.",
        "Table 1: 0.5 AP",
        (
            _half(
                1,
                "FP16 from opset 17, against opset 16, same weights",
                HALF_16,
                HALF_17,
                Expected(f"a gain of 10 points or more ({_AFTER})", least=10),
            ),
            _half(
                2,
                "FP16 from opset 16, against float32, same weights",
                FLOAT32,
                HALF_16,
                Expected(f"a loss of 10 points or more ({_AFTER})", most=-10),
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
                "RF-DETR, against a rival trained alike from random weights, at equal latency",
                GAIN,
                RivalsAtEqualLatency(),
                of_training=True,
                command=_RIVALS,
            ),
            Comparison(
                "11.2",
                "RF-DETR, against a rival trained alike, at equal latency, over data sets",
                GAIN,
                RivalsOverDataSets(),
                of_training=True,
                command=_RIVALS,
            ),
        ),
    ),
)


def claims_named(name: str | None, study: str | None = None) -> tuple[Claim, ...]:
    """The claim with the id ``name``, like "4", or with one comparison of it, like "4.1"; None: all
    claims. ``study``: only claims that this study is about. Raises :class:`InputError` for an
    unknown id, and for a claim that the study is not about.
    """
    known = [
        claim
        for claim in CLAIMS
        if study is None or any(study in part.studies for part in claim.comparisons)
    ]
    number = None if name is None else name.partition(".")[0]
    found = [claim for claim in known if number in (None, claim.id)]
    if name != number:
        parts = [part for claim in found for part in claim.comparisons if part.id == name]
        found = [replace(claim, comparisons=tuple(parts)) for claim in found if parts]
    if not found:
        what = f"unknown claim {name!r}"
        if any(name in (claim.id, *_ids(claim)) for claim in CLAIMS):
            what = f"the study {study} is not about claim {name}"
        ids = ", ".join(claim.id for claim in known)
        if number in [claim.id for claim in known]:
            ids = ", ".join(_ids(next(claim for claim in known if claim.id == number)))
        raise InputError(what, "--claim", f"choose one of {ids}")
    return tuple(found)


def _ids(claim: Claim) -> list[str]:
    return [part.id for part in claim.comparisons]
