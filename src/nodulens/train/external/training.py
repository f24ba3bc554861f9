"""Training the segmenter of a recipe by an external framework in an environment of its own.

The two environments exchange only files: our slices are exported as the framework's data set, a small script of ours
runs it in its environment, and the trained network comes back as a torch program, which becomes an ONNX file with a
card. The parts specific to each framework are in :mod:`nodulens.train.external.nnunet` and
:mod:`nodulens.train.external.yolo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.errors import BadOption, NodulensError
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import Run, read_run, write_run
from nodulens.train.external.environment import Environment
from nodulens.train.loop.export import LICENCE, TOLERANCE, export
from nodulens.train.run import (
    Division,
    RunSpec,
    check_fold,
    digest,
    division,
    open_run,
    parts_of,
    prepare,
    record_training,
    same_settings,
    settings_of,
    train_recipe,
)
from nodulens.train.tasks import slice_material
from nodulens.train.tasks.protocol import Rows
from nodulens.train.tasks.slice_material import Material


def settled(config: NetworkConfig, standard: NetworkConfig, free: Sequence[str], title: str) -> NetworkConfig:
    """Check that a config changes only what the framework lets us set.

    Args:
        standard: the recipe's own.
        free: fields that may differ from it.
        title: name of the framework.

    Raises:
        BadOption: a value is changed that the framework chooses by itself.
    """
    allowed = replace(standard, **{name: getattr(config, name) for name in free})
    own = [name for name, value in asdict(config).items() if value != getattr(allowed, name)]
    if own:
        raise BadOption(
            f"{title} chooses {', '.join(f'segmenter.{n}' for n in own)} by itself; what can be set is "
            f"{', '.join(f'segmenter.{n}' for n in free if n != 'network')}."
        )
    return allowed


class ExternalNetwork(nn.Module):
    """A network from an exported program.

    Args:
        net: the program, as ``torch.export.load(path).module()`` gives it.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> ExternalNetwork:
        """Do nothing: an exported program has no modes, and raises an error."""
        self.training = mode
        return self


def largest_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float, title: str) -> float:
    """The largest difference between two networks' probabilities on a slice.

    Args:
        ours, theirs: of the same shape.

    Raises:
        NodulensError: it is above the tolerance.
    """
    found = float(np.abs(ours - theirs).max())
    if found > tolerance:
        raise NodulensError(f"The network exported from {title} differs from its own predictor by {found:.2g}.")
    return found


@dataclass(frozen=True, eq=False)
class Trained:
    """A network trained by a framework, ready for export.

    Attributes:
        net: (N, 1, size, size) 0…1 → (N, classes, size, size) logits.
        config: with the framework's own choices.
        examples: (n, size, size) input slices on which the exported file is compared with it.
        figures: for the card.
        settings: for the card, beside the config's.
        licence: of the weights.
        tolerance: largest difference of the file's logits.
    """

    net: nn.Module
    config: NetworkConfig
    examples: NDArray[np.float32]
    figures: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    licence: str = LICENCE
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Job:
    """The training of a recipe's segmenter by a framework.

    Attributes:
        recipe: with a segmenter that the framework can train.
        division: rows of the material; the framework does not get the test rows.
        folder: of the run.
        work: folder of the framework in it.
        command: that reproduces the run.
    """

    recipe: Recipe
    material: Material
    division: Division
    folder: Path
    work: Path
    command: str

    @property
    def config(self) -> NetworkConfig:
        """The segmenter's."""
        assert self.recipe.segmenter is not None
        return self.recipe.segmenter

    @property
    def training_patients(self) -> list[str]:
        """The patients of the training and the validation set, those of rendered nodules among them."""
        return sorted(self.material.shown(np.concatenate([self.division.train, self.division.validation])))

    def examples(self) -> Rows:
        """Two training rows, with a nodule if there is one, on which the export is checked."""
        train = self.division.train
        return train[np.argsort(~self.material.has_nodule[train], kind="stable")][:2]

    def bring_back(self, trained: Trained) -> None:
        """Write ``segmenter.onnx`` and its card.

        Raises:
            NodulensError: the ONNX file does not compute what the network does.
        """
        config, examples = trained.config, trained.examples
        card = {
            "name": "segmenter",
            "command": self.command,
            "trained_on": {
                "material": self.recipe.title,
                "never": sorted(EVALUATION_PATIENTS),
                "patients": self.training_patients,
            },
            "input": {"shape": f"(N, 1, {config.size}, {config.size}) float32, 0…1"},
            "settings": {**settings_of(config), "masked": self.recipe.masked, **trained.settings},
            "figures": dict(trained.figures),
            "licence": trained.licence,
        }
        example = torch.from_numpy(np.resize(examples, (2, *examples.shape[1:])))[:, None]
        export(trained.net, example, self.folder, card, trained.tolerance)


def train_external(
    recipe: Recipe,
    spec: RunSpec,
    environment: Environment,
    make: Callable[[Job], NetworkConfig],
    free: Sequence[str],
    slices: int | None = None,
) -> Run:
    """Train a recipe's segmenter by a framework, and its other networks by our loop, into a run folder.

    Finished steps are kept, interrupted ones resumed. The framework's files and log are in a folder of its name.

    Args:
        spec: see :func:`nodulens.train.run.train_recipe`.
        make: trains the segmenter, writes it (:meth:`Job.bring_back`), and returns its final config.
        free: settings of the segmenter that the framework does not choose by itself, see :func:`settled`.
        slices: largest number, evenly spaced; None: all.

    Raises:
        NotFound: no environment or no material.
        BadOption: there is no such fold, the folder holds another run or one with other settings, or no patient is left
            to train on.
        NodulensError: the framework failed, or the exported network differs from its own.
    """
    environment.check()
    material = slice_material.load(spec.data, recipe, spec.split)
    chosen = thinned(division(material, parts_of(material.patients, spec.split, spec.fold)), slices)
    if not len(chosen.train) or not len(chosen.validation):
        raise BadOption(
            "Too few slices are left for a training and a validation set; leave out another fold, or fewer slices."
        )
    others = prepare(recipe, spec, [name for name in recipe.networks if name != "segmenter"])
    check_fold([material, *(part.material for part in others)], spec)
    del others
    work = spec.folder / environment.NAME
    run = open_run(recipe, spec)
    begun, asked = read_run(spec.folder).recipe.segmenter, vars(recipe.segmenter)
    same_settings({name: getattr(begun, name) for name in free}, asked, "segmenter.", spec.folder)
    record_training(run, environment.NAME, None, digest(material, chosen.train, chosen.validation), spec.folder)
    work.mkdir(parents=True, exist_ok=True)
    config = make(Job(recipe, material, chosen, spec.folder, work, spec.command))
    # the segmenter is done; this trains the others
    run = train_recipe(replace(recipe, segmenter=config), spec)
    software = {**run.software, environment.NAME: environment.REQUIREMENT}
    run = replace(run, software=software)
    write_run(run, spec.folder)
    return run


def thinned(division: Division, slices: int | None) -> Division:
    """Reduce the rows for training and validation to a number, in their proportion."""
    total = len(division.train) + len(division.validation)
    step = 1 if slices is None else max(1, -(-total // slices))
    return replace(division, train=division.train[::step], validation=division.validation[::step])
