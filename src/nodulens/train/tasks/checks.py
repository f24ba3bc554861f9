"""Checks of a network's config before anything is loaded: its training may begin hours later."""

from __future__ import annotations

from nodulens.errors import BadOption
from nodulens.methods.recipe import NetworkConfig
from nodulens.stages.slices import BACKGROUNDS, NODULE
from nodulens.train.loop.losses import check_loss
from nodulens.train.networks.pretrained import check_encoder, with_encoder
from nodulens.train.networks.registry import APART, check_kind, check_window

SLICES_ALONE = {
    "window": "windows are cut out of whole slices",
    "examples": "how much an epoch of the others has follows from their material",
    "auxiliary": "a second head classifies the slice",
}


def check_config(part: str, config: NetworkConfig) -> None:
    """Refuse settings that would crash, or have no effect.

    Args:
        part: "segmenter", "filter" or "classifier".
        config: not checked if another program trains it (:data:`nodulens.train.networks.registry.APART`).

    Raises:
        BadOption: the message says what to set instead.
    """
    if config.network in APART:
        return
    if part == "segmenter":
        _check_segmenter(config)
        exclusive = config.classes[0] in BACKGROUNDS
    else:
        for name, why in SLICES_ALONE.items():
            if getattr(config, name):
                raise BadOption(f"{part}.{name} can only be set for a segmenter: {why}. Leave it out.")
        if config.batch == 1:
            raise BadOption(f"{part}.batch must be 2 or more: batch norm has no statistics of a single example.")
        exclusive = part == "classifier"
    if config.crop_scale is not None and part != "classifier":
        raise BadOption(f"{part}.crop_scale can only be set for a classifier: it crops nodules. Leave it out.")
    check_encoder(part, config)
    check_loss(config, exclusive=exclusive)
    check_kind(part, config)


def _check_segmenter(config: NetworkConfig) -> None:
    if NODULE not in config.classes:
        raise BadOption(f"segmenter.classes must have {NODULE}, which is what a method finds.")
    behind = [name for name in config.classes[1:] if name in BACKGROUNDS]
    if behind:
        raise BadOption(f"{behind[0]} is what the other classes leave: name it first in segmenter.classes, and once.")
    mirrors = {"flip", "turn"} & set(config.augment)
    if mirrors and any(name.startswith(("left", "right")) for name in config.classes):
        raise BadOption(f"{', '.join(sorted(mirrors))} takes left for right: leave it out, or the sides of the lungs.")
    if config.balance == "sampling":
        raise BadOption(
            "segmenter.balance=sampling has no effect: slices with and without a nodule are always sampled equally "
            "often. Leave it at none, or take weights."
        )
    if config.window is not None and config.network != "planned-unet":  # whose size the material decides
        check_window(with_encoder(config))
