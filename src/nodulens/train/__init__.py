"""Training: the loop, the networks, the default method, the tasks of the methods, and external frameworks.

It needs the extra ``train``. The package can be called: ``nodulens.train(…)`` is :func:`train`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nodulens.core.packages import CallablePackage
from nodulens.core.text import without_places
from nodulens.data.splits import read_split
from nodulens.errors import BadOption, training_installed
from nodulens.methods.catalogue import recipe_named
from nodulens.methods.recipe import Recipe, changed, changed_to_train
from nodulens.methods.run_record import SPLIT, Run, is_run, read_run
from nodulens.train.options import DEFAULTS, TrainOptions, test_patients_of


def train(
    recipe: str | Recipe,
    data: str | Path,
    output: str | Path,
    *,
    settings: Sequence[str] = (),
    options: TrainOptions = DEFAULTS,
) -> Run:
    """Train every network of a recipe into a folder, or resume an interrupted run.

    >>> run = train("conv3-classifier", "data", "run", options=TrainOptions(fold=2, epochs=5))  # doctest: +SKIP

    Args:
        recipe: its name or a value; for the default method, the networks that ship are trained again on all patients.
        data: folder of ``nodulens data prepare``, or with ``lidc/``, ``luna16/`` and ``background/``, or with
            ``images/`` and ``masks/``.
        output: folder of the run, which can be named in place of a recipe.
        settings: ``name=value``, see :func:`nodulens.methods.recipe.changed_to_train`.
        options: test patients, epochs, threads, and where the curves go.

    Returns:
        The record of the run, as in ``run.json``.

    Raises:
        BadOption: no such recipe or setting; a setting, split, fold or MLflow for the default method; options that
            contradict each other; no patient in the test fold; or the folder holds another run.
        NotFound: there is no such material.
        MissingExtra: training, or MLflow, needs packages that are not installed.
    """
    chosen = _chosen(recipe, settings, options)
    own_choice = options.split is not None or options.fold is not None
    everybody = options.everybody or not (chosen.networks or own_choice)
    split, fold = test_patients_of(options.split, options.fold, everybody=everybody)
    with training_installed():
        from nodulens.train.run import RunSpec, train_default, train_recipe, use_threads
    use_threads(options.threads)
    command = options.command or _call(recipe, data, output, settings, options)
    if not chosen.networks:
        if settings or own_choice or options.mlflow:
            raise BadOption(
                f"The recipe {chosen.name!r} is trained on all training patients, as it ships: it takes --epochs, but "
                "no --set, --split, --fold or --mlflow. For figures by fold run python -m nodulens.train."
            )
        return train_default(Path(data), Path(output), command=command, epochs=options.epochs)
    return train_recipe(chosen, RunSpec(Path(data), Path(output), command, split, fold, options.mlflow))


def check_every_fold(
    recipe: str | Recipe, data: str | Path, trainings: Mapping[Path, TrainOptions], settings: Sequence[str] = ()
) -> None:
    """Check the trainings of a recipe, a fold each, before the first begins; nothing is written.

    Args:
        trainings: folder of each run → its options.

    Raises:
        BadOption, NotFound, MissingExtra: see :func:`train`.
    """
    chosen = _chosen(recipe, settings, next(iter(trainings.values())))
    with training_installed():
        from nodulens.train.run import RunSpec
        from nodulens.train.run import check_every_fold as check
    if not chosen.networks:
        return  # refused by the first training
    specs = []
    for folder, options in trainings.items():
        split, fold = test_patients_of(options.split, options.fold, everybody=False)
        specs.append(RunSpec(Path(data), folder, "", split, fold))
    check(chosen, specs)


def _chosen(recipe: str | Recipe, settings: Sequence[str], options: TrainOptions) -> Recipe:
    """The recipe to train: epochs of one network, which a setting names, count more than those of every network."""
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    epochs = [] if options.epochs is None else [f"{part}.epochs={options.epochs}" for part in chosen.networks]
    return changed_to_train(changed(chosen, epochs), settings)


def extend(data: str | Path, output: str | Path, epochs: int, *, options: TrainOptions = DEFAULTS) -> Run:
    """Let every network of a finished run go on for some epochs, with the settings and patients of the run.

    See :func:`nodulens.train.run.extend_recipe`; an interrupted extension resumes by the same call.

    >>> run = extend("data", "run", 20)  # doctest: +SKIP

    Args:
        data: folder of the material that the run was trained on.
        output: folder of the run.
        epochs: by which each network goes on.
        options: threads, and where the curves go; the others are those of the run.

    Returns:
        The record of the run.

    Raises:
        BadOption: the folder holds no finished run, or one whose networks cannot go on; or an option that the run
            decides.
        NotFound: there is no such material.
        MissingExtra: training, or MLflow, needs packages that are not installed.
    """
    folder = Path(output)
    if not is_run(folder):
        raise BadOption(f"{folder} holds no run to extend; train one first.")
    if options.split is not None or options.fold is not None or options.everybody or options.epochs is not None:
        raise BadOption("A run is extended with its own patients: leave out --split, --fold, --everybody and --epochs.")
    if epochs < 1:
        raise BadOption(f"A run is extended by 1 epoch or more, got {epochs}.")
    run = read_run(folder)
    if not run.recipe.networks:
        raise BadOption(f"{folder} holds a run of {run.recipe.name!r}, which cannot be extended.")
    with training_installed():
        from nodulens.train.run import RunSpec, extend_recipe, use_threads
    use_threads(options.threads)
    split = read_split(folder / SPLIT) if (folder / SPLIT).exists() else None
    own = split if split is not None and split.names_all else None
    changes = f", options={replace(options, mlflow=None)}" * (options != DEFAULTS)
    command = options.command or _without_places(
        f"nodulens.train.extend({str(data)!r}, {str(output)!r}, {epochs}{changes})"
    )
    return extend_recipe(RunSpec(Path(data), folder, command, own, run.fold, options.mlflow), epochs)


def _call(
    recipe: str | Recipe, data: str | Path, output: str | Path, settings: Sequence[str], options: TrainOptions
) -> str:
    """The call that reproduces the run, with paths reduced as in a typed command, and without the place of MLflow."""
    options = replace(options, mlflow=None)
    changes = f", settings={list(settings)}" * bool(settings) + f", options={options}" * (options != DEFAULTS)
    return _without_places(f"nodulens.train({recipe!r}, {str(data)!r}, {str(output)!r}{changes})")


def _without_places(call: str) -> str:
    return re.sub("'([^']*)'", lambda quoted: f"'{without_places(quoted[1])}'", call)


sys.modules[__name__].__class__ = CallablePackage
