"""What a method is, as a value: change it with :func:`dataclasses.replace` or :func:`changed`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from nodulens.errors import BadOption, UnreadableFile
from nodulens.io.records import UNIONS, Arrangement, Format, Row, from_plain

NAMING = ("name", "title", "source")
"""Fields that name a recipe and change nothing of what it does."""
LUNA16_MASK = (
    "labels=luna16-mask: what is called nodule here is value 5 of LUNA16's lung masks, which is trachea and airways. "
    "Those files hold no nodules, and no figure of this can be compared with one of nodules."
)
SLIDING = (
    "sliding_window=true: the filter alone says where something is, in cells of 8 pixels and about 2.5 mm. Diameters, "
    "volumes and what follows from them are those of the cells, and not of nodules; with prompted=network each is "
    "segmented."
)
RENAMED = {"grow": "box_scale", "slide": "sliding_window", "most_findings": "max_findings"}
"""Field of a recipe in runs of version 0.1 → its present name."""
NEVER_READ = frozenset({"rounds_drawn"})
"""Fields of a recipe that older runs hold, and that nothing ever read."""
Augmentation = Literal["flip", "turn", "rotate", "zoom", "shift", "brightness", "contrast", "noise"]

Range = tuple[Callable[[Any], bool], str]
"""A predicate for the range of a value, and its description."""
COUNT: Range = (lambda v: v >= 1, "a whole number from 1 up")
ABOVE_0: Range = (lambda v: 0 < v < math.inf, "a number above 0")
FROM_0: Range = (lambda v: 0 <= v < math.inf, "a number from 0 up")
SHARE: Range = (lambda v: 0 <= v <= 1, "a number from 0 to 1")
DECAY: Range = (lambda v: 0 <= v < 1, "a number from 0 to below 1")
SEED: Range = (lambda v: 0 <= v < 2**32, f"a whole number from 0 to {2**32 - 1}")
NAMES: Range = (lambda v: 0 < len(v) == len(set(v)), "one name or several, each once")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        epochs: passes over the material at most.
        learning_rate: the peak.
        optimizer: "sgd" has Nesterov momentum of 0.9.
        schedule: how the rate falls: "cosine" to 0; "polynomial" as (1 − done)^0.9; "step" to a tenth at one half and
            again at three quarters of the epochs; "plateau" by half whenever ``plateau`` epochs bring nothing better;
            "constant".
        warm_up: share of the epochs in which the rate rises to its peak.
        patience: epochs without anything better after which training stops, and the best weights are kept; None: it
            runs to its end, and the last weights are kept.
        minutes: training stops after the epoch that passes them.
        averaging: the weights kept are an exponential moving average with this decay; 0: no average.
        precision: "mixed" computes in half precision where that is safe: 16 bits on a GPU, bfloat16 on a CPU that has
            it; on any other CPU all is single.
        augment: kinds of augmentation, see :func:`nodulens.train.loop.augment.augmented`.

    Raises:
        BadOption: a number out of its range.
    """

    epochs: int
    learning_rate: float = 2e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "polynomial", "step", "plateau", "constant"] = "cosine"
    warm_up: float = 0.05
    plateau: int = 3
    patience: int | None = None
    minutes: float | None = None
    averaging: float = 0.99
    precision: Literal["single", "mixed"] = "single"
    seed: int = 0
    augment: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        _check(self, TRAINING)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Training):
    """One network of a method: its input, its outputs, and how it is trained.

    Attributes:
        network: its name in :mod:`nodulens.train.networks.registry`.
        size: side of its square input in pixels.
        pixel_mm: of that input; None: the scan's own pixels, the whole slice brought to ``size`` where it is larger.
        crop_scale: of a classifier: its input is a square this many times as long as the nodule's outline, resized to
            ``size`` in place of ``pixel_mm``, so that size is not seen; None: the same field for every nodule.
        classes: of its outputs.
        loss: its name in :mod:`nodulens.train.loop.losses`.
        batch: examples a step.
        balance: "sampling" draws every class as often as any other, "weights" weighs the loss so.
        window: for a network of whole slices, side in pixels of the square patches that it is trained on instead: cut
            out of them, and close-ups of real nodules where there are any. On a CPU that trains faster. None: whole
            slices.
        examples: for a network of whole slices, how many slices or windows an epoch has at most: no more than there
            are slices, with close-ups twice as many; None: 240 slices, or 480 windows.
        auxiliary: weight of the loss of a second head that classifies which classes are present; 0 without one.
        pretrained: an encoder trained on ImageNet that the network starts from: a file, a hub name, or
            "efficientnet-lite0", whose U-Net then takes the network's place; None: from random weights.

    Raises:
        BadOption: a number out of its range, no class, or one twice.
    """

    network: str
    size: int
    pixel_mm: float | None
    classes: tuple[str, ...]
    loss: str
    batch: int = 32
    balance: Literal["none", "sampling", "weights"] = "none"
    window: int | None = None
    examples: int | None = None
    auxiliary: float = 0.0
    pretrained: str | None = None
    crop_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, NETWORK)


TRAINING: Mapping[str, Range] = {
    "epochs": COUNT,
    "learning_rate": ABOVE_0,
    "weight_decay": FROM_0,
    "warm_up": SHARE,
    "plateau": COUNT,
    "patience": COUNT,
    "minutes": ABOVE_0,
    "averaging": DECAY,
    "seed": SEED,
    "augment": (lambda v: len(v) == len(set(v)), "kinds of augmentation, each once"),
}
NETWORK: Mapping[str, Range] = {
    "size": COUNT,
    "pixel_mm": ABOVE_0,
    "classes": NAMES,
    "batch": COUNT,
    "window": COUNT,
    "examples": COUNT,
    "auxiliary": FROM_0,
    "crop_scale": ABOVE_0,
}
RECIPE: Mapping[str, Range] = {
    "renderings": COUNT,
    "box_scale": ABOVE_0,
    "max_findings": COUNT,
    "rounds_detected": COUNT,
}


def _check(record: object, ranges: Mapping[str, Range]) -> None:
    """Refuse values out of range; None is in range where a field allows it.

    Raises:
        BadOption: the message names the field, its range and the value.
    """
    for name, (lies_in, wording) in ranges.items():
        value = getattr(record, name)
        if value is not None and not lies_in(value):
            raise BadOption(f"{name} is {wording}; got {', '.join(value) if isinstance(value, tuple) else value}.")


@dataclass(frozen=True)
class Recipe:
    """A method: the networks and settings that lead from a CT to findings.

    Attributes:
        name: as reports and the command line say it.
        title: in a line.
        source: the publication it follows; empty for our own.
        segmenter: a network that segments whole axial slices; None: the default's detector finds candidates.
        labels: ground truth of the segmenter's nodules: "lidc", the outlines of LIDC's readers; "luna16-mask", value 5
            of LUNA16's lung masks, as method B's publication took it: that is airway, see :attr:`caveats`.
        slices: which slices of whole scans the segmenter is trained on: "middle", the one of each scan with the largest
            cross-section of the lungs; "central", the one of each nodule with the most of it; "all", these, others
            through nodules, and others without.
        cubes: whether close-ups of real nodules, on which a segmenter with a window is trained, are slices of LUNA16's
            cubes as well as of the stacks.
        renderings: where there are no whole scans to train on, how often nodules are rendered into each nodule-free
            lung, every time others at other places.
        prompted: what segments a candidate or a region again from its bounding box: the default's "network", "sam2" or
            "sam" from ``checkpoint``; None: the masks of ``segmenter`` are kept.
        checkpoint: folder or hub name of SAM's weights.
        shown: SAM's field of view: the whole slice, the lung, our estimate of the lobe, or a close crop.
        intensity: SAM's grey values: the "window" of all our networks, −1000 to 400 HU; or from the lowest to the
            highest value of the "scan", as method A's publication.
        memory: SAM2 is prompted on the middle slice and its memory propagates the mask up and down; else each slice is
            segmented separately.
        filter: a network for false-positive reduction: it keeps or rejects each region by the patch around it.
        negatives: what the filter's non-nodules are in training: the "candidates" of LUNA16 (of pictures, bright spots
            in the lungs), "tiles" of lung slices without a nodule, as a sliding window meets them, or "both".
        sliding_window: the filter detects by itself, in a sliding window over the lungs, in place of the segmenter; see
            :attr:`caveats`.
        classifier: a network that classifies each nodule; None: the default's.
        masked: whether the classifier's input is the nodule alone, with its surroundings blanked.
        box_scale: side of the bounding box that prompts, over that of the region.
        threshold: least score of a finding; None for the one on the detector's card.
        max_findings: findings reported at most, the most certain first.
        rounds_detected: inferences of the default's prompted network on one candidate, region or point at most, until
            the mask no longer changes.

    Raises:
        BadOption: a number out of its range, or nothing that segments.
    """

    name: str = "default"
    title: str = "Our own: two networks detect, one segments at a prompt, one classifies"
    source: str = ""
    segmenter: NetworkConfig | None = None
    labels: Literal["lidc", "luna16-mask"] = "lidc"
    slices: Literal["middle", "central", "all"] = "all"
    cubes: bool = False
    renderings: int = 6
    prompted: Literal["network", "sam2", "sam"] | None = "network"
    checkpoint: str | None = None
    shown: Literal["slice", "lung", "lobe", "crop"] = "slice"
    intensity: Literal["window", "scan"] = "window"
    memory: bool = False
    filter: NetworkConfig | None = None
    negatives: Literal["candidates", "tiles", "both"] = "candidates"
    sliding_window: bool = False
    classifier: NetworkConfig | None = None
    masked: bool = False
    box_scale: float = 1.0
    threshold: float | None = None
    max_findings: int = 100
    rounds_detected: int = 12

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BadOption(f"A threshold is a score from 0 to 1, got {self.threshold:g}.")
        _check(self, RECIPE)
        if self.segmenter is None and self.prompted is None:
            raise BadOption(f"{self.name} has no segmenter, so prompted is what segments: network, sam2 or sam.")
        if self.sliding_window and self.filter is None:
            raise BadOption(f"{self.name} has no filter for a sliding window: leave sliding_window at false.")

    @property
    def networks(self) -> dict[str, NetworkConfig]:
        """The networks that are trained for this method, by the name of their field."""
        parts = {"segmenter": self.segmenter, "filter": self.filter, "classifier": self.classifier}
        return {name: config for name, config in parts.items() if config is not None}

    @property
    def detects(self) -> bool:
        """Whether the default's detector finds the candidates: the method has no network of its own that does."""
        return self.segmenter is None and not self.sliding_window

    @property
    def in_use(self) -> tuple[str, ...]:
        """The fields that still act when a scan is analysed; the rest went into its networks and their cards."""
        sam = ("checkpoint", "shown", "intensity")
        ways = {None: (), "network": ("rounds_detected",), "sam": sam, "sam2": (*sam, "memory")}
        scale = ("box_scale",) if self.prompted and not self.detects else ()
        window = ("sliding_window",) if self.filter else ()
        return ("threshold", "max_findings", "prompted", *ways[self.prompted], *scale, *window)

    @property
    def shapes_training(self) -> tuple[str, ...]:
        """The fields, beside its networks, that decide what those are trained on."""
        slices = ("labels", "slices", "cubes", "renderings") if self.segmenter is not None else ()
        patches = ("negatives",) if self.filter is not None else ()
        crops = ("masked",) if self.classifier is not None else ()
        return (*slices, *patches, *crops)

    @property
    def caveats(self) -> tuple[str, ...]:
        """Limits of the method that every output of it states, as sentences."""
        airways = self.segmenter is not None and self.labels == "luna16-mask"
        cells = self.sliding_window and self.prompted is None
        return (LUNA16_MASK,) * airways + (SLIDING,) * cells


DEFAULT = Recipe()
Settable = TypeVar("Settable", Recipe, Training)


def changed(recipe: Settable, settings: Iterable[str]) -> Settable:
    """The recipe, or the training, with values changed by their dotted names: ``segmenter.epochs=5``.

    A value is read as its field's type says: a number, a word out of a list, true or false, "none", or several with
    commas between.

    Raises:
        BadOption: no such field, or a value that does not fit; the message lists what there is. Or another name, which
            would pass one recipe off as another.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise BadOption(f"--set takes name=value, such as segmenter.epochs=5; got {setting!r}.")
        name = name.strip()
        recipe = _changed(recipe, name.split("."), text.strip(), name)
        if name in NAMING:
            raise BadOption(f"{name} identifies the recipe and cannot be set; runs differ by their folders.")
    return recipe


def changed_in_use(recipe: Recipe, settings: Iterable[str], able: Iterable[str] | None = None) -> Recipe:
    """A recipe as it was trained, changed for use: only in what still acts there.

    Args:
        able: the fields that act; None for :attr:`Recipe.in_use`.

    Raises:
        BadOption: see :func:`changed`; or a setting without effect after training; the message lists those with one.
    """
    settings = list(settings)
    new = changed(recipe, settings)
    acts = tuple(able or new.in_use)
    _check_acting(settings, acts, f"{new.name} is used as it was trained. What can be set here is {', '.join(acts)}.")
    return new


def changed_to_train(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """A recipe changed before it is trained: only in what acts, then or in use.

    Raises:
        BadOption: see :func:`changed`; or a setting without effect; the message lists those with one.
    """
    settings = list(settings)
    new = changed(recipe, settings)
    acts = (*new.in_use, *new.shapes_training, *new.networks)
    _check_acting(settings, acts, f"{new.name} has no part that it is for. What can be set is {', '.join(acts)}.")
    for setting in settings:
        _check_network_setting(setting.partition("=")[0].strip(), new)
    return new


def _check_acting(settings: Iterable[str], acts: Collection[str], why: str) -> None:
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if not {name, name.partition(".")[0]} & set(acts):
            raise BadOption(f"{name} has no effect: {why}")


def _check_network_setting(name: str, recipe: Recipe) -> None:
    """Refuse a setting of a network that another of its settings takes the place of."""
    part, _, own = name.partition(".")
    config = recipe.networks.get(part)
    if config is None:
        return
    if own == "pixel_mm" and config.crop_scale is not None:
        raise BadOption(
            f"{name} has no effect: with {part}.crop_scale={config.crop_scale:g} every crop is as long as its nodule's "
            f"outline. Set {part}.crop_scale=none, too."
        )
    if own == "plateau" and config.schedule != "plateau":
        raise BadOption(f"{name} has no effect: it is of {part}.schedule=plateau, and this one is {config.schedule}.")


def _changed(record: Any, path: list[str], text: str, whole: str) -> Any:
    known = get_type_hints(type(record))
    if path[0] in RENAMED and isinstance(record, Recipe):
        raise BadOption(f"{path[0]} is now called {RENAMED[path[0]]}: --set {RENAMED[path[0]]}={text}.")
    if path[0] not in known:
        raise BadOption(f"There is no {path[0]!r} in {whole!r}; {type(record).__name__} has {', '.join(known)}.")
    value = getattr(record, path[0])
    if len(path) > 1:
        if not is_dataclass(value):
            what = "is not set in this recipe" if value is None else "is a plain value"
            raise BadOption(f"{path[0]!r} in {whole!r} {what}, so it holds no {'.'.join(path[1:])}.")
        return replace(record, **{path[0]: _changed(value, path[1:], text, whole)})
    if is_dataclass(value):
        raise BadOption(f"{whole!r} is a group; name one of {', '.join(f'{whole}.{f.name}' for f in fields(value))}.")
    if any(is_dataclass(kind) for kind in get_args(known[path[0]])):
        raise BadOption(f"{whole!r} is a network that this recipe has not, and no word makes one.")
    return replace(record, **{path[0]: _parsed(text, known[path[0]], whole)})


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON holds it; :func:`from_dict` gives the same recipe back."""
    return asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from JSON; fields that were renamed since are read under their new names.

    Raises:
        BadOption: a key that is not known, one that is missing or there twice, or a value of another type.
    """
    try:
        return cast("Recipe", from_plain(Recipe, values, "recipe", FORM))
    except UnreadableFile as error:
        raise BadOption(str(error)) from error


def _renamed(row: Row, where: str) -> Row:
    """The object of a recipe as runs of version 0.1 name its keys, under the names of now."""
    twice = [f"{old} and {new}" for old, new in RENAMED.items() if {old, new} <= row.keys()]
    if twice:
        raise UnreadableFile(f"{where} holds both {', '.join(twice)}, which are one.")
    return {RENAMED.get(key, key): value for key, value in row.items() if key not in NEVER_READ}


ARRANGEMENT = Arrangement(read=_renamed)
FORM = Format("", "recipe", defaults=True, arranged={Recipe: ARRANGEMENT})


def _parsed(text: str, wanted: Any, name: str) -> Any:
    """Parse text as the type of a field."""
    if get_origin(wanted) in UNIONS:
        if text.lower() == "none":
            return None
        return _parsed(text, next(a for a in get_args(wanted) if a is not type(None)), name)
    if get_origin(wanted) is tuple:
        parts = [] if text.lower() == "none" else text.split(",")
        return tuple(_parsed(part.strip(), get_args(wanted)[0], name) for part in parts if part.strip())
    try:
        return from_plain(wanted, _typed(text, wanted), name, FORM)
    except (UnreadableFile, ValueError) as error:
        raise BadOption(f"{name} cannot be {text!r}; it is {_wording(wanted)}.") from error


def _typed(text: str, wanted: Any) -> Any:
    """A word of the command line as the value that JSON would hold in its place.

    Raises:
        ValueError: it is no number where one is wanted.
    """
    if wanted is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return wanted(text) if wanted in (int, float) else text


def _wording(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(get_args(wanted))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[wanted]
