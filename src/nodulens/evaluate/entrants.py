"""Methods that enter a comparison: runs, evaluated on their test patients, and files of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from nodulens.data.splits import Split
from nodulens.errors import BadOption, NotFound, training_installed
from nodulens.evaluate.folds import read_folds
from nodulens.evaluate.options import EvaluateOptions
from nodulens.evaluate.predictions import FILE, SHOWN, Prediction, predictions_of, read_predictions
from nodulens.methods.load import load_networks
from nodulens.methods.run_record import is_run, method_named
from nodulens.pipeline import Progress, silent
from nodulens.report.record import WeightRef


class Part(NamedTuple):
    """What is compared with its like: a network, and the structure that it segments, or ""."""

    network: str
    structure: str

    @property
    def name(self) -> str:
        """For tables."""
        return ": ".join(filter(None, self)) or "items"


@dataclass(frozen=True, eq=False)
class Entrant:
    """A method with its predictions.

    Attributes:
        name: short.
        predictions: of its test patients.
        trained_on: patients of its training and validation sets; of a run for every fold none, as each patient is
            predicted by the run that left it out; None where there is no record of them.
        weights: of its networks; none of a file.
        file: that was read; None of a run.
    """

    name: str
    predictions: tuple[Prediction, ...]
    trained_on: frozenset[str] | None = None
    weights: tuple[WeightRef, ...] = ()
    file: Path | None = None

    @cached_property
    def parts(self) -> Mapping[Part, Mapping[str, Prediction]]:
        """Part → item → prediction; of structures only the items that show them."""
        out: dict[Part, dict[str, Prediction]] = {}
        for one in self.predictions:
            part = out.setdefault(Part(one.network, one.structure), {})
            if one.dice is None or one.truth == SHOWN:
                part[one.item] = one
        return out


@dataclass(frozen=True)
class RunMaterial:
    """What runs are evaluated on.

    Attributes:
        data: folder of the material; None: there are no runs.
        split: of the test patients; None: each run's own.
        threads: CPU threads; None for as many as there are cores.
    """

    data: Path | None = None
    split: Split | None = None
    threads: int | None = None


NO_RUNS = RunMaterial()


def entrants_of(places: Sequence[Path], material: RunMaterial = NO_RUNS, progress: Progress = silent) -> list[Entrant]:
    """The methods at some places: folders of runs, or of a run for every fold, which are evaluated;
    ``predictions.csv``, or folders that hold it.

    Raises:
        BadOption: a place twice; a run without data to evaluate it on, or without a network of its own.
        NotFound: nothing is there, or no predictions.
        BadValues, UnreadableFile: see :func:`nodulens.evaluate.predictions.read_predictions`.
        NoTestPatients, PatientOverlap: see :func:`nodulens.evaluate.networks.evaluate_networks`, and
            :func:`nodulens.evaluate.cross_validation.cross_validate`.
        MissingExtra: evaluating runs needs packages that are not installed.
    """
    return [_entrant(name, place, material, progress) for name, place in zip(_names(places), places, strict=True)]


def _entrant(name: str, place: Path, material: RunMaterial, progress: Progress) -> Entrant:
    def show(stage: str, done: float) -> None:
        progress(f"{name}: {stage}", done)

    if is_run(place):
        return _run(name, place, material, show)
    return _file(name, place) if read_folds(place) is None else _folds(name, place, material, show)


def _file(name: str, place: Path) -> Entrant:
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        raise NotFound(
            f"{place} is no run of nodulens train, no {FILE} and no folder that holds one; nodulens evaluate RUN "
            "--data DIR -o FOLDER writes it."
        )
    return Entrant(name, read_predictions(path), file=path)


def _run(name: str, folder: Path, material: RunMaterial, progress: Progress) -> Entrant:
    recipe, _ = method_named(str(folder))
    data = _data(folder, material)
    if not recipe.networks:
        raise BadOption(f"{folder} has no network of its own, so it was not trained without any test patient.")
    with training_installed():
        from nodulens.evaluate.networks import evaluate_networks, trained_on
        from nodulens.train.run import use_threads
    use_threads(material.threads)
    own = load_networks(recipe, folder, material.threads).own
    networks = evaluate_networks(folder, own, data, material.split, progress)
    weights = tuple(WeightRef(f"{name}: {model.card.name}", model.card.sha256) for model in own.values())
    return Entrant(name, predictions_of(networks), trained_on(own.values()), weights)


def _folds(name: str, folder: Path, material: RunMaterial, progress: Progress) -> Entrant:
    """A run for every fold: no patient is predicted by a network that was trained on it."""
    data = _data(folder, material)
    with training_installed():
        from nodulens.evaluate.cross_validation import cross_validate
    found = cross_validate(folder, data, EvaluateOptions(material.split, threads=material.threads, progress=progress))
    weights = tuple(WeightRef(f"{name}: {ref.name}", ref.sha256) for ref in found.weights)
    return Entrant(name, found.predictions, frozenset(), weights)


def _data(folder: Path, material: RunMaterial) -> Path:
    """The folder of the material, which a run needs."""
    if material.data is None:
        raise BadOption(f"{folder} is a run: name the folder of the material to evaluate it on, --data DIR.")
    return material.data


def _names(places: Sequence[Path]) -> list[str]:
    """Short names: those of the folders or files, with as many of the folders above as tell them apart."""
    known = [place.resolve() for place in places]
    twice = [place for k, place in enumerate(places) if known[k] in known[:k]]
    if twice:
        raise BadOption(f"{twice[0]} is named twice; compare different runs.")
    whole = [place.parent if place.name == FILE else place for place in known]
    short = [(*place.parent.parts, place.stem) for place in whole]
    parts = short if len(set(short)) == len(short) else [place.parts for place in whole]
    lengths = range(1, max(map(len, parts), default=0) + 1)
    names = (["/".join(own[-length:]) for own in parts] for length in lengths)
    return next((some for some in names if len(set(some)) == len(some)), [str(place) for place in places])
