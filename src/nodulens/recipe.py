"""What a method is, as a value: change it with :func:`dataclasses.replace` or :func:`changed`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from nodulens.errors import BadOption

UNIONS = (UnionType, Union)
LUNA16_MASK = (
    "labels=luna16-mask: what is called nodule here is value 5 of LUNA16's lung masks, which is trachea and airways. "
    "Those files hold no nodules, and no figure of this can be compared with one of nodules."
)
Augmentation = Literal["flip", "turn", "rotate", "zoom", "shift", "brightness", "contrast", "noise"]


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
        averaging: the weights kept are an exponential moving average with this decay; 0: the weights as they are.
        precision: "mixed" computes in half precision where that is safe: 16 bits on a GPU, bfloat16 on a CPU that has
            it; on any other CPU all is single.
        augment: what may be done to an example at random, see :func:`nodulens.train.augment.augmented`.
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


@dataclass(frozen=True, kw_only=True)
class Learner(Training):
    """One network of a method, what it sees, and how it learns.

    Attributes:
        network: its name in :mod:`nodulens.train.networks`.
        size: side of its square input in pixels.
        pixel_mm: of that input; None: the scan's own pixels, the whole slice brought to ``size`` where it is larger.
        classes: what its outputs stand for.
        loss: its name in :mod:`nodulens.train.losses`.
        batch: examples a step.
        balance: "sampling" draws every class as often as any other, "weights" weighs the loss so.
        window: of a network of whole slices, side in pixels of the squares that teach it in their place: cut out of
            them, and close-ups of real nodules where there are any. A machine without a GPU learns sooner so. None:
            whole slices.
        auxiliary: weight of the loss of a second head that says which classes are there; 0 without one.
        pretrained: file or hub name of an encoder trained on ImageNet that the network starts from; None: from random
            weights.
    """

    network: str
    size: int
    pixel_mm: float | None
    classes: tuple[str, ...]
    loss: str
    batch: int = 32
    balance: Literal["none", "sampling", "weights"] = "none"
    window: int | None = None
    auxiliary: float = 0.0
    pretrained: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A method: which parts do what, from a CT to findings.

    Attributes:
        name: as reports and the command line say it.
        title: in a line.
        source: the publication it follows; empty for our own.
        segmenter: a network that outlines on whole axial slices; None: the default's detector finds marks.
        labels: what the segmenter learns to call nodule: "lidc", what LIDC's readers outlined; "luna16-mask", value 5
            of LUNA16's lung masks, as method B's publication took it: that is airway, see :attr:`caveats`.
        slices: of whole scans, which ones the segmenter learns from: "middle", the one of each scan with the largest
            cross-section of the lungs; "central", the one of each nodule with the most of it; "all", these, others
            through nodules, and others without.
        prompted: what outlines a mark or a region again from a box: the default's "network", "sam2" or "sam" from
            ``checkpoint``; None: the outline of ``segmenter`` stands.
        checkpoint: folder or hub name of SAM's weights.
        shown: what SAM is shown of a scan: the whole slice, or a close crop.
        filter: a network that keeps or rejects each region by the patch round it.
        classifier: a network that grades each nodule; None: the default's.
        masked: whether the classifier sees the nodule alone, all round it blanked.
        grow: box of a region over its outline's, before it prompts.
        threshold: least score of a finding; None for the one on the detector's card.
        most_findings: findings reported at most, the most certain first.
        rounds_detected: how often the segmenter looks at a mark of the detector or a point at most, until the outline
            settles.
        rounds_drawn: how often at a box or mask that a person drew.
    """

    name: str = "default"
    title: str = "Our own: two networks detect, one outlines what it is pointed at, one grades"
    source: str = ""
    segmenter: Learner | None = None
    labels: Literal["lidc", "luna16-mask"] = "lidc"
    slices: Literal["middle", "central", "all"] = "all"
    prompted: Literal["network", "sam2", "sam"] | None = "network"
    checkpoint: str | None = None
    shown: Literal["slice", "crop"] = "slice"
    filter: Learner | None = None
    classifier: Learner | None = None
    masked: bool = False
    grow: float = 1.0
    threshold: float | None = None
    most_findings: int = 100
    rounds_detected: int = 12
    rounds_drawn: int = 1

    @property
    def learners(self) -> dict[str, Learner]:
        """The networks this method trains for itself, by the name of their field."""
        parts = {"segmenter": self.segmenter, "filter": self.filter, "classifier": self.classifier}
        return {name: learner for name, learner in parts.items() if learner is not None}


    @property
    def caveats(self) -> tuple[str, ...]:
        """What whoever trains, judges or uses it must be told, as sentences."""
        return (LUNA16_MASK,) if self.segmenter is not None and self.labels == "luna16-mask" else ()


DEFAULT = Recipe()
Settable = TypeVar("Settable", Recipe, Training)


def changed(recipe: Settable, settings: Iterable[str]) -> Settable:
    """The recipe, or the training, with values changed by their dotted names: ``segmenter.epochs=5``.

    A value is read as its field's type says: a number, a word out of a list, true or false, "none", or several with
    commas between.

    Raises:
        BadOption: no such field, or a value that does not fit; the message lists what there is.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise BadOption(f"--set takes name=value, such as segmenter.epochs=5; got {setting!r}.")
        recipe = _changed(recipe, name.strip().split("."), text.strip(), name.strip())
    return recipe


def _changed(record: Any, path: list[str], text: str, whole: str) -> Any:
    known = get_type_hints(type(record))
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
    return replace(record, **{path[0]: _parsed(text, known[path[0]], whole)})


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """For JSON; :func:`from_dict` gives the same recipe back."""
    return asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from JSON.

    Raises:
        BadOption: a key that is not known, one that is missing, or a value of another type.
    """
    return cast("Recipe", _built(values, Recipe, "recipe"))


def _built(value: Any, wanted: Any, name: str) -> Any:
    """A JSON value as the type that a field asks for."""
    if is_dataclass(wanted):
        known = get_type_hints(wanted)
        if not isinstance(value, dict) or not value.keys() <= known.keys():
            strange = sorted(value.keys() - known.keys()) if isinstance(value, dict) else [str(value)]
            raise BadOption(f"{name} holds {', '.join(strange)}; known are {', '.join(known)}.")
        missing = {f.name for f in fields(wanted) if f.default is MISSING} - value.keys()
        if missing:
            raise BadOption(f"{name} lacks {', '.join(sorted(missing))}.")
        return cast("Any", wanted)(**{key: _built(v, known[key], f"{name}.{key}") for key, v in value.items()})
    if get_origin(wanted) is tuple:
        return tuple(_built(v, get_args(wanted)[0], name) for v in value)
    inner = [a for a in get_args(wanted) if a is not type(None)] if get_origin(wanted) in UNIONS else []
    if inner:
        return None if value is None else _built(value, inner[0], name)
    fits = value in get_args(wanted) if get_origin(wanted) is Literal else _fits(value, wanted)
    if not fits:
        raise BadOption(f"{name} cannot be {value!r}; it is {_wording(wanted)}.")
    return wanted(value) if wanted is float else value


def _fits(value: Any, wanted: type) -> bool:
    """A whole number is a number too, but true and false are none."""
    kinds = (int, float) if wanted is float else wanted
    return isinstance(value, bool) == (wanted is bool) and isinstance(value, kinds)


def _parsed(text: str, wanted: Any, name: str) -> Any:
    """Typed text as the type that a field asks for."""
    if get_origin(wanted) in UNIONS:
        if text.lower() == "none":
            return None
        return _parsed(text, next(a for a in get_args(wanted) if a is not type(None)), name)
    if get_origin(wanted) is tuple:
        return tuple(_parsed(part.strip(), get_args(wanted)[0], name) for part in text.split(",") if part.strip())
    if get_origin(wanted) is Literal:
        value: Any = text
    elif wanted is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    else:
        try:
            value = wanted(text)
        except ValueError:
            value = text
    return _built(value, wanted, name)


def _wording(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(get_args(wanted))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[wanted]
