"""Methods by name, for ``nodulens train``, ``evaluate`` and ``analyze --recipe``: a recipe, or the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from nodulens.apps.typed import typed_command
from nodulens.errors import BadOption, MissingExtra, MissingWeights, NotFound
from nodulens.method import Method, Prompted, untrained
from nodulens.recipe import Recipe, changed, changed_in_use
from nodulens.recipes import recipe_named
from nodulens.report import Report, WeightRef
from nodulens.runs import Run, method_named
from nodulens.runtime.engine import Models, load_model, load_models
from nodulens.stages.pointing import Outline, part_of

if TYPE_CHECKING:
    from nodulens.core.volume import Mask, Volume
    from nodulens.data.splits import Split

SCHEMA = "nodulens-method/1"
FOLD = 1
"""Left out where nothing else is asked for: it holds a background."""


def load_method(name: str, *, threads: int | None = None, settings: Sequence[str] = ()) -> Method:
    """A recipe or run with all its networks, ready to analyze.

    Args:
        name: of a recipe, or the folder of a run.
        threads: CPU threads.
        settings: ``name=value``, see :func:`nodulens.recipe.changed_in_use`.

    Raises:
        BadOption: no such recipe or setting, or one that acts in training alone.
        MissingWeights: networks that are not there; the message says how to come by them.
        MissingExtra: SAM needs packages that are not installed.
    """
    recipe, folder = method_named(name)
    recipe = changed_in_use(recipe, settings)
    return Method(recipe, _networks(recipe, folder, threads), _prompted(recipe))


def _networks(recipe: Recipe, folder: Path | None, threads: int | None) -> Models:
    """All that is no SAM: those that ship, and the recipe's own from the folder of its run."""
    if folder is not None and not recipe.learners:  # the default, trained anew
        return load_models(threads, folder)
    if folder is None and recipe.learners:
        raise untrained(recipe, recipe.learners)
    own = {part: load_model(part, threads, folder) for part in recipe.learners} if folder else {}
    return replace(load_models(threads), own=own)


def _prompted(recipe: Recipe) -> Prompted | None:
    """SAM or SAM2 from files on this machine, where the recipe asks for one."""
    if recipe.prompted is None or recipe.prompted == "network":
        return None
    ways = "Name the folder that holds them: --set checkpoint=FOLDER; or take our own network: --set prompted=network."
    if recipe.checkpoint is None:
        raise MissingWeights(f"The recipe {recipe.name!r} outlines by {recipe.prompted}, and names no weights. {ways}")
    try:
        from nodulens.train.sam import load_sam
    except ImportError as error:
        raise MissingExtra("sam", error.name or "torch") from error
    try:
        sam = load_sam(recipe.checkpoint, recipe.prompted)
    except MissingWeights as error:
        raise MissingWeights(f"{error} {ways}") from error
    if recipe.memory and not sam.net.remembers:
        raise BadOption(f"{recipe.checkpoint} has no memory to carry outlines with: --set memory=false, or take SAM2.")

    def within(lungs: Mask) -> Outline:
        view = partial(part_of, part=recipe.shown, lungs=lungs)
        return replace(sam, view=view, memory=recipe.memory).segment

    return Prompted(within, WeightRef(recipe.checkpoint, sam.sha256))


def who_judges(path: Path | None, fold: int | None, *, everybody: bool) -> tuple[Split | None, int | None]:
    """The split and the fold that is left out, from what was typed.

    Args:
        path: of a split's file; None for the fixed folds.
        fold: None where none was named.
        everybody: nobody is left out.

    Returns:
        The fold is None for a split into shares, which says itself who judges, and where everybody trains.

    Raises:
        BadOption: options that contradict each other, or no such fold.
        NotFound, UnreadableFile, PatientOverlap: see :func:`nodulens.data.splits.read_split`.
    """
    from nodulens.data.splits import read_split

    split = read_split(path) if path else None
    if everybody and (split or fold is not None):
        raise BadOption("--everybody leaves nobody out; leave out --split and --fold, or --everybody.")
    if split and not split.folds and fold is not None:
        raise BadOption(f"{path} is a split into shares, which names who judges: leave out --fold.")
    if everybody or (split and not split.folds):
        return split, None
    left_out = FOLD if fold is None else fold
    if split:
        split.parts(left_out)  # refuses a fold that it has not
    return split, left_out


def train(
    name: str,
    data: Path,
    output: Path,
    *,
    settings: Sequence[str],
    split: Split | None,
    fold: int | None,
    epochs: int | None = None,
    threads: int | None = None,
) -> Run:
    """Train every network of a recipe into a folder, or go on where that was stopped.

    Args:
        name: of a recipe; of the default the networks that ship are trained anew, on everybody.
        settings: ``name=value``.
        split, fold: who judges; see :func:`who_judges`.
        epochs: of each network, in place of the recipe's.

    Raises:
        BadOption: no such recipe or setting, a setting, split or fold of the default, or the folder holds another run.
        MissingExtra: training needs packages that are not installed.
    """
    recipe = changed(recipe_named(name), settings)
    try:
        from nodulens.train.run import train_default, train_recipe, use_threads
    except ImportError as error:
        raise MissingExtra("train", error.name or "torch") from error
    command = typed_command()
    use_threads(threads)
    if not recipe.learners:
        if settings or split is not None or fold is not None:
            raise BadOption(
                f"The recipe {recipe.name!r} is trained on everybody who may, as it ships: it takes --epochs, but no "
                "--set, --split or --fold. Figures by fold come from python -m nodulens.train."
            )
        return train_default(data, output, command=command, epochs=epochs)
    if epochs is not None:
        recipe = changed(recipe, [f"{part}.epochs={epochs}" for part in recipe.learners])
    return train_recipe(recipe, data, output, command=command, split=split, fold=fold)


def evaluate(
    name: str,
    data: Path,
    split: Path | None,
    *,
    output: Path | None = None,
    threads: int | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """How a method does where it was not trained: its own networks on whom the run left out, all of it on whole scans.

    The networks of a run need no SAM to be judged: where its weights or packages are missing, whole scans are left out,
    and a note says so.

    Args:
        output: folder for a page with curves and pictures of a run.
        threads: CPU threads.
        settings: ``name=value``, of how whole scans are analyzed; see :func:`nodulens.recipe.changed_in_use`.

    Returns:
        For JSON: ``networks`` (figures and judged rows of each), ``scans``, and ``notes``, sentences on what was left
        out.

    Raises:
        BadOption: a page or a split is asked for of what is no run, a page where a file is, or a setting that training
            decided.
        NotFound: of what is no run, and no scan to judge it on.
        MissingExtra: judging networks on their own needs packages that are not installed.
        MissingWeights: networks that are not there, or SAM where there is nothing else to judge.
    """
    from nodulens.data.splits import read_split
    from nodulens.evaluate.scans import judge_scans, response_curve, scans_in
    from nodulens.pipeline import analyze

    if output is not None:
        from nodulens.evaluate.page import check_folder

        check_folder(output)
    recipe, folder = method_named(name)
    recipe = changed_in_use(recipe, settings)
    if not recipe.learners:
        _check_whole_scans_alone(name, data, split, output)
    models = _networks(recipe, folder, threads)
    networks, judged = {}, {}
    if folder is not None and recipe.learners:
        try:
            from nodulens.train.run import judge_run, use_threads
        except ImportError as error:
            raise MissingExtra("train", error.name or "torch") from error
        use_threads(threads)
        judged = judge_run(folder, data, read_split(split) if split else None, threads=threads)
        networks = {part: asdict(one.outcome) for part, one in judged.items()}

    weights = tuple(WeightRef(one.model.card.name, one.model.card.sha256) for one in judged.values())
    scans: list[dict[str, Any]] = []
    notes = list(recipe.caveats)
    if scans_in(data):
        try:
            prompted = _prompted(recipe)
        except (MissingWeights, MissingExtra) as error:
            if not judged:
                raise
            notes.append(f"Whole scans were left out, for what outlines there is missing. {error}")
        else:
            weights = Method(recipe, models, prompted).weights

            def both(ct: Volume) -> tuple[Report, Report]:
                report = analyze(ct, recipe=recipe, models=models, prompted=prompted)
                return report, report

            scans = judge_scans(data, both)
    if output is not None and folder is not None:
        from nodulens.evaluate.evaluation import Provenance
        from nodulens.evaluate.page import write_evaluation
        from nodulens.train.shown import evaluation_of

        provenance = Provenance(command=typed_command(), weights=weights)
        write_evaluation(evaluation_of(folder, judged, scans, notes, provenance), output)
    found = {"schema": SCHEMA, "recipe": recipe.name, "networks": networks, "scans": scans, "notes": notes}
    return {**found, "curve": response_curve(scans)} if scans else found


def _check_whole_scans_alone(name: str, data: Path, split: Path | None, output: Path | None) -> None:
    """What is asked of a method without networks of its own, which is judged on whole scans alone.

    Raises:
        BadOption: a page, or a split, which says who judges the networks of a run.
        NotFound: there is no such scan.
    """
    from nodulens.data.folds import EVALUATION_PATIENTS
    from nodulens.evaluate.scans import scans_in

    if output is not None:
        raise BadOption(f"{name!r} is no run with networks of its own: there are no curves and pictures to write.")
    if split is not None:
        raise BadOption(f"{name!r} is no run with networks of its own for others to judge: leave out --split.")
    if not scans_in(data):
        wanted = ", ".join(sorted(EVALUATION_PATIENTS))
        raise NotFound(f"{name!r} is judged on whole scans, and {data / 'ct'} holds none of {wanted}, a folder each.")


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """What :func:`evaluate` found, for people."""
    for part, outcome in found["networks"].items():
        table = Table(f"{found['recipe']}: {part}", "")
        for name, value in _flat(outcome["figures"]):
            table.add_row(name, Text(f"{value:.4g}" if isinstance(value, float) else str(value)))
        yield table
    if found["scans"]:
        table = Table("whole scan", "nodules found", "other marks", "other, strict", "3-D Dice")
        for scan in found["scans"]:
            dice = ", ".join(f"{o['dice_3d']:.2f}" for o in scan.get("outlines", ()))
            hits = f"{scan['found']} of {scan['nodules']}"
            table.add_row(scan["name"], hits, str(scan["other"]), str(scan["other_strict"]), dice)
        yield table


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", value
