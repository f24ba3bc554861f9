"""Training: the loop, the networks, the default method, the tasks of the methods, and external frameworks.

It needs the extra ``train``. The package can be called: ``nodulens.train(…)`` is :func:`train`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nodulens.core.packages import CallablePackage
from nodulens.core.text import without_places
from nodulens.errors import BadOption, MissingExtra
from nodulens.methods.catalogue import recipe_named
from nodulens.methods.recipe import Recipe, changed, changed_to_train
from nodulens.methods.run_record import Run
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
        options: test patients, epochs and threads.

    Returns:
        The record of the run, as in ``run.json``.

    Raises:
        BadOption: no such recipe or setting; a setting, split or fold for the default method; options that contradict
            each other; or the folder holds another run.
        NotFound: there is no such material.
        MissingExtra: training needs packages that are not installed.
    """
    chosen = changed_to_train(recipe_named(recipe) if isinstance(recipe, str) else recipe, settings)
    own_choice = options.split is not None or options.fold is not None
    everybody = options.everybody or not (chosen.networks or own_choice)
    split, fold = test_patients_of(options.split, options.fold, everybody=everybody)
    try:
        from nodulens.train.run import RunSpec, train_default, train_recipe, use_threads
    except ImportError as error:
        raise MissingExtra("train", error.name or "torch") from error
    use_threads(options.threads)
    command = options.command or _call(recipe, data, output, settings, options)
    if not chosen.networks:
        if settings or own_choice:
            raise BadOption(
                f"The recipe {chosen.name!r} is trained on all training patients, as it ships: it takes --epochs, but "
                "no --set, --split or --fold. For figures by fold run python -m nodulens.train."
            )
        return train_default(Path(data), Path(output), command=command, epochs=options.epochs)
    if options.epochs is not None:
        chosen = changed(chosen, [f"{part}.epochs={options.epochs}" for part in chosen.networks])
    return train_recipe(chosen, RunSpec(Path(data), Path(output), command, split, fold))


def _call(
    recipe: str | Recipe, data: str | Path, output: str | Path, settings: Sequence[str], options: TrainOptions
) -> str:
    """The call that reproduces the run, with paths reduced as in a typed command."""
    changes = f", settings={list(settings)}" * bool(settings) + f", options={options}" * (options != DEFAULTS)
    call = f"nodulens.train({recipe!r}, {str(data)!r}, {str(output)!r}{changes})"
    return re.sub("'([^']*)'", lambda quoted: f"'{without_places(quoted[1])}'", call)


sys.modules[__name__].__class__ = CallablePackage
