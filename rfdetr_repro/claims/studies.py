"""The studies of ``claims --run``: which models each one trains or evaluates. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from .pairs import SHARED

ALONE = "trained alone"
NO_CLIP = "without a gradient clip"
NO_EMA = "without EMA"
LAYER_DECAY = "layer decay 0.8"
NO_COOLDOWN = "without a cooldown"
COSINE = "cosine schedule"
PADDED = "padded to a square"
DRAWN = "draws depth and queries"
RANDOM_BACKBONE = "random dinov2-pico"
DINOV3 = "random dinov3-pico"
CONVNEXT = "random convnext-pico"
PRE_DINOV2 = "dinov2-pico pretrained alike"
PRE_DINOV3 = "dinov3-pico pretrained alike"
PRE_CONVNEXT = "convnext-pico pretrained alike"
COPIES = "2 windows, a class token in each"
ONE_TOKEN = "2 windows, one class token"
UNRANKED = "queries dropped at random"
TUNED_AFTER = "fine-tuned after the supernet"
FLOAT32 = "float32"
HALF_17 = "FP16 from opset 17"
HALF_16 = "FP16 from opset 16"

# what the trainings of a study start from: random weights everywhere, the backbone of the packaged
# weights and random weights elsewhere, the packaged weights as a whole, or a backbone that this
# machine first trained on the embedded data set, and random weights elsewhere
RANDOM = "random"
BACKBONE = "backbone"
WEIGHTS = "weights"
PRETRAINED = "pretrained"
STARTS = {
    RANDOM: "from random weights",
    BACKBONE: "from the pico backbone",
    WEIGHTS: "from the pico weights",
    PRETRAINED: "from backbones pretrained alike",
}
PRETRAINING_TIMES = 4  # steps of a backbone's pretraining, by those of a training
TUNING_PART = 2  # steps of a supernet's training, by those of the fine-tuning after it: half

DOMAIN = "thermal"  # of embedded-10: what trainings learn without --data
STEPS = 500  # of each training without --steps
QUICK_STEPS = 60
ALL = "all"


@dataclass(frozen=True)
class Trained:
    """One variant that a study trains with every seed: the pico size, by its recipe with
    ``settings`` changed.

    ``shared``: as a supernet of the pico space instead of alone. ``draws``: alone, but every step
    draws decoder layers and queries of the space. ``backbone``: a name of
    :mod:`rfdetr_repro.spec.backbones`, which starts from random weights unless the study pretrains
    backbones; "" for the size's own. ``padded``: pictures keep their aspect ratio in training and
    in evaluation. ``windows``: per side, 0 for the size's own. ``one_token``: the windows share one
    class token. ``tuned``: the key of an architecture, which is trained by itself from the weights
    of the ``shared`` supernet of the same seed; "" for none.
    """

    variant: str
    settings: tuple[str, ...] = ()
    shared: bool = False
    draws: bool = False
    backbone: str = ""
    padded: bool = False
    windows: int = 0
    one_token: bool = False
    tuned: str = ""

    @property
    def words(self) -> str:
        """The variant, and the architecture that is trained further."""
        return f"{self.variant}, {self.tuned}" if self.tuned else self.variant


@dataclass(frozen=True)
class Study:
    """What ``claims --run ID`` does. Without ``trained`` the study evaluates the packaged weights;
    ``unranked``: with queries that are dropped at random. ``start``: the only start, of
    :data:`STARTS`, with which the variants can be compared; "" for any.
    """

    id: str
    words: str
    trained: tuple[Trained, ...] = ()
    unranked: bool = False
    start: str = ""


_ALONE = Trained(ALONE)
_SHARED = Trained(SHARED, shared=True)

STUDIES: dict[str, Study] = {
    study.id: study
    for study in (
        Study(
            "weights",
            "every configuration of the pico space, and patch sizes that training never drew, with "
            "the weights of the package, on the embedded val split",
        ),
        Study(
            "sharing",
            "the base architecture of pico, trained alone and inside the supernet with as many "
            "steps; the supernet also with patch sizes that training never drew",
            (_ALONE, _SHARED),
        ),
        Study(
            "finetuning",
            "two architectures of the supernet, the second with fewer tokens, before and "
            "after further training for half as many steps as the supernet's",
            (
                _SHARED,
                Trained(TUNED_AFTER, tuned="r128-p16-w1-d2-q25"),
                Trained(TUNED_AFTER, tuned="r96-p12-w1-d2-q25"),
            ),
        ),
        Study(
            "recipe",
            "the base architecture of pico, trained by its recipe and with one setting changed, "
            "or with pictures that are padded",
            (
                _ALONE,
                Trained(NO_CLIP, ("clip_norm=1e9",)),
                Trained(NO_EMA, ("ema_decay=0",)),
                Trained(LAYER_DECAY, ("layer_decay=0.8",)),
                Trained(NO_COOLDOWN, ("cooldown_share=0",)),
                Trained(COSINE, ("cooldown_share=1", "cooldown_form=cosine")),
                Trained(PADDED, padded=True),
            ),
        ),
        Study(
            "dropping",
            "training that draws decoder layers and queries, and training that draws none, each "
            "evaluated with decoder layers and queries dropped",
            (_ALONE, Trained(DRAWN, ("draw_heads=true",), draws=True)),
        ),
        Study(
            "backbones",
            "the pretrained backbone of pico, against random weights of the same and of two other "
            "backbones",
            (
                _ALONE,
                Trained(RANDOM_BACKBONE, backbone="dinov2-pico"),
                Trained(DINOV3, backbone="dinov3-pico"),
                Trained(CONVNEXT, backbone="convnext-pico"),
            ),
            start=BACKBONE,
        ),
        Study(
            "forms",
            "three forms of backbone, each first pretrained on the embedded data set for "
            f"{PRETRAINING_TIMES} times as many steps as the training after it",
            (
                Trained(PRE_DINOV2, backbone="dinov2-pico"),
                Trained(PRE_DINOV3, backbone="dinov3-pico"),
                Trained(PRE_CONVNEXT, backbone="convnext-pico"),
            ),
            start=PRETRAINED,
        ),
        Study(
            "order",
            "queries dropped at random instead of by the encoder's confidence, with the weights of "
            "the package, on the embedded val split",
            unranked=True,
        ),
        Study(
            "tokens",
            "two windows per side with a class token in each window, and with one class token for "
            "all windows",
            (
                Trained(COPIES, windows=2),
                Trained(ONE_TOKEN, windows=2, one_token=True),
            ),
        ),
    )
}
