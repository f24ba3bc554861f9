"""Evaluation of a method, a recipe or the folder of a run or of several, on patients that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodulens.core.private import check_folder
from nodulens.core.volume import Volume
from nodulens.data.folds import EVALUATION_PATIENTS
from nodulens.data.material import STACKS, Stacks
from nodulens.data.splits import Split, read_split
from nodulens.errors import BadOption, MissingExtra, MissingWeights, NoTestPatients, NotFound, training_installed
from nodulens.evaluate.folds import read_folds
from nodulens.evaluate.options import DEFAULTS, EvaluateOptions
from nodulens.evaluate.scans import ScanEvaluation, evaluate_scans, response_curve, scan_tables, scans_in
from nodulens.methods.load import load_networks, load_sam_of, prompted_by
from nodulens.methods.method import Method
from nodulens.methods.recipe import Recipe, changed_in_use
from nodulens.methods.run_record import method_named, read_run
from nodulens.pipeline import Progress, analyze
from nodulens.presentation.evaluation import Table
from nodulens.report.record import Report, WeightRef
from nodulens.runtime.engine import Model, Models, load_model

if TYPE_CHECKING:
    from nodulens.evaluate.cross_validation import CrossValidation
    from nodulens.evaluate.networks import NetworkEvaluation
    from nodulens.evaluate.refinement import Steps
    from nodulens.stages.sam import Sam

SCHEMA = "nodulens-method/1"


@dataclass(frozen=True, eq=False)
class MethodEvaluation:
    """The evaluation of a method.

    Attributes:
        recipe: its name.
        run: the folder of the run; None if the method is a recipe.
        networks: by the field of the recipe, each on the run's test patients; empty for a recipe.
        scans: whole scans by the method.
        sliding_window: whole scans by its filter alone, if it has one.
        second_step: nodules with and without a second step, if the method has one.
        weights: of all networks used.
        notes: what limits the figures, or was left out; sentences.
    """

    recipe: str
    run: Path | None
    networks: Mapping[str, NetworkEvaluation]
    scans: tuple[ScanEvaluation, ...] = ()
    sliding_window: tuple[ScanEvaluation, ...] = ()
    second_step: Steps | None = None
    weights: tuple[WeightRef, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As ``nodulens evaluate RUN --json`` prints it; empty parts are omitted, except ``scans``."""
        out: dict[str, Any] = {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "networks": {
                part: {"figures": one.evaluated.figures.to_json(), "rows": one.evaluated.to_json()}
                for part, one in self.networks.items()
            },
            "scans": [scan.to_json() for scan in self.scans],
        }
        if self.scans:
            out["curve"] = [asdict(point) for point in response_curve(self.scans)]
        if self.sliding_window:
            out["slid"] = [scan.to_json() for scan in self.sliding_window]
        if self.second_step is not None:
            out["second_step"] = self.second_step.to_json()
        return {**out, "notes": list(self.notes)}

    def tables(self) -> tuple[Table, ...]:
        """The main figures as tables that fit a screen; the page and the JSON have all."""
        scans = scan_tables(self.scans, self.sliding_window)
        if not self.networks:
            return scans
        from nodulens.evaluate.headline import headline_table, metrics_of, metrics_of_steps  # brings PyTorch

        rows = [(part, metric) for part, one in self.networks.items() for metric in metrics_of(one.evaluated)]
        if self.second_step is not None:
            rows += [("second step", metric) for metric in metrics_of_steps(self.second_step)]
        return headline_table(f"{self.recipe} on its test patients", rows), *scans[:1]


def evaluate(
    name: str | Path,
    data: str | Path,
    *,
    settings: Sequence[str] = (),
    options: EvaluateOptions = DEFAULTS,
) -> MethodEvaluation | CrossValidation:
    """Evaluate a method, see :func:`evaluate_method`; or a folder with a run for every fold, each patient by the run
    that left it out, see :func:`nodulens.evaluate.cross_validation.cross_validate`.

    Raises:
        BadOption: settings for a folder of runs; otherwise as those.
    """
    if read_folds(Path(name)) is None:
        return evaluate_method(name, data, settings=settings, options=options)
    if settings:
        raise BadOption("The networks of a folder of runs are evaluated as they were trained: leave out --set.")
    with training_installed():
        from nodulens.evaluate.cross_validation import cross_validate
    return cross_validate(name, data, options)


def evaluate_method(
    name: str | Path,
    data: str | Path,
    *,
    settings: Sequence[str] = (),
    options: EvaluateOptions = DEFAULTS,
) -> MethodEvaluation:
    """Evaluate a method where it was not trained: its networks on the run's test patients, the method on whole scans.

    A method that segments its regions again is evaluated with and without that second step, by a prompted network that
    was not trained on the test patients; one with a filter also by the filter alone as a sliding window. The networks
    of a run are evaluated without SAM: if its weights or packages are missing, the parts that need it are left out,
    and a note says so.

    >>> evaluate_method("run", "data").to_json()["networks"]["classifier"]["figures"]  # doctest: +SKIP

    Args:
        name: of a recipe, or the folder of a run.
        data: folder with lidc/, luna16/, background/ and ct/.
        settings: ``name=value``, of how whole scans are analyzed; see :func:`nodulens.methods.recipe.changed_in_use`.
        options: test patients, the prompted network, threads and progress.

    Raises:
        BadOption: a split for a recipe, a setting that was fixed in training, or a prompted network that this method
            does not use.
        NoTestPatients: the run has no test patients, and there is no scan to evaluate it on.
        NotFound: no scan to evaluate a recipe on.
        MissingExtra: evaluating networks on their own needs packages that are not installed.
        MissingWeights: no weights of a network, or of SAM if there is nothing else to evaluate.
    """
    data, split = Path(data), options.split
    recipe, folder = method_named(str(name))
    recipe = changed_in_use(recipe, settings)
    if not recipe.networks:
        _check_whole_scans_alone(str(name), data, split)
    models = load_networks(recipe, folder, options.threads)
    if options.prompted is not None:
        models = replace(models, segmenter=_own_prompted(options.prompted, recipe, options.threads))
    chosen = read_split(split) if isinstance(split, Path) else split
    found = MethodEvaluation(recipe.name, folder if recipe.networks else None, {}, notes=recipe.caveats)
    if found.run is not None:
        found = _with_networks(found, models, data, chosen, options)
    again = bool(found.networks) and _segments_again(recipe, data)
    if not (again or scans_in(data)):
        return found
    try:
        sam = load_sam_of(recipe)
    except (MissingWeights, MissingExtra) as error:
        if not found.networks:
            raise
        what = " and the second step" if again else ""
        note = f"Whole scans{what} were left out: their segmenter is missing. {error}"
        return replace(found, notes=(*found.notes, note))
    method = Method(recipe, models, prompted_by(recipe, sam))
    found = _with_scans(found, method, data, options.progress)
    return _with_second_step(found, method, sam, (data, chosen), options.progress) if again else found


def check_page(name: str, folder: Path) -> None:
    """Check before hours of work that a page can be written.

    Raises:
        BadOption: the folder is a file, or the method is not a run with networks of its own, nor a folder of such runs.
    """
    check_folder(folder)
    if read_folds(Path(name)) is not None:
        return
    recipe, _ = method_named(name)
    if not recipe.networks:
        raise BadOption(f"{name!r} is not a run with networks of its own: there are no curves and pictures to write.")


def _with_networks(
    found: MethodEvaluation, models: Models, data: Path, split: Split | None, options: EvaluateOptions
) -> MethodEvaluation:
    """Evaluate the networks of a run on its test patients."""
    assert found.run is not None
    with training_installed():
        from nodulens.evaluate.networks import evaluate_networks
        from nodulens.train.run import use_threads
    use_threads(options.threads)
    try:
        networks = evaluate_networks(found.run, models.own, data, split, options.progress)
    except NoTestPatients as error:
        if not scans_in(data):
            raise
        note = f"Its networks were evaluated together on whole scans alone. {error}"
        return replace(found, notes=(*found.notes, note))
    weights = tuple(WeightRef(one.model.card.name, one.model.card.sha256) for one in networks.values())
    lacking = [part for part in models.own if part not in networks]
    notes = [f"The material of the {part} holds no test patient: it was not evaluated by itself." for part in lacking]
    return replace(found, networks=networks, weights=weights, notes=(*found.notes, *notes))


def _with_scans(found: MethodEvaluation, method: Method, data: Path, progress: Progress) -> MethodEvaluation:
    """Evaluate a method on whole scans, and its filter alone if it has one."""
    found = replace(found, weights=method.weights)
    if not scans_in(data):
        return found
    scans = evaluate_scans(data, partial(_twice, method, progress))
    if method.recipe.filter is None or method.recipe.sliding_window:
        return replace(found, scans=scans)
    alone = replace(method, recipe=replace(method.recipe, sliding_window=True))
    return replace(found, scans=scans, sliding_window=evaluate_scans(data, partial(_twice, alone, progress)))


def _twice(method: Method, progress: Progress, ct: Volume) -> tuple[Report, Report]:
    """A report, and the same for the curve."""
    report = analyze(ct, method=method, progress=progress)
    return report, report


def _with_second_step(
    found: MethodEvaluation, method: Method, sam: Sam | None, where: tuple[Path, Split | None], progress: Progress
) -> MethodEvaluation:
    """Evaluate with and without the second step, on nodules of test patients that no network was trained on.

    Args:
        where: folder of the material, and the split that names the test patients.
    """
    from nodulens.evaluate import central_slices
    from nodulens.evaluate.networks import unseen_patients
    from nodulens.evaluate.refinement import of_run

    assert found.run is not None
    data, split = where
    recipe, own, ours = method.recipe, method.models.own, method.models.segmenter
    stacks = Stacks(data)
    able = unseen_patients(found.run, stacks.patients, own.values(), split)
    test = able if sam else unseen_patients(found.run, stacks.patients, [*own.values(), ours], split)
    left_out = "The comparison with and without the second step was left out: "
    if able and not test:
        fold = read_run(found.run).fold
        named = "N" if fold is None else str(fold)
        note = (
            f"{left_out}the prompted network in {ours.card.path.parent} was trained on all {len(able)} test patients. "
            f"Train one without them: python -m nodulens.train segmenter --data {data} --fold {named} --run FOLDER; "
            f"and add --prompted FOLDER/segmenter/fold{named}."
        )
        return replace(found, notes=(*found.notes, note))
    outline = (central_slices.close_up(sam) if sam else central_slices.own(ours, recipe.rounds_detected))("box", None)
    steps = of_run(recipe, own, stacks, test, outline, partial(progress, "second step"))
    progress("second step", 1.0)
    if steps is None:
        note = f"{left_out}no test patient has a nodule of a known class in {STACKS}."
        return replace(found, notes=(*found.notes, note))
    return replace(found, second_step=steps)


def _own_prompted(folder: Path, recipe: Recipe, threads: int | None) -> Model:
    """A prompted network of ours from a folder.

    Raises:
        BadOption: the recipe prompts none, or the folder holds another network.
        MissingWeights, CorruptWeights: it does not exist, or does not match its card.
    """
    if recipe.prompted != "network":
        raise BadOption(
            f"--prompted names a network of ours, and {recipe.name} segments by {recipe.prompted or 'its segmenter'}: "
            "add --set prompted=network, or leave it out."
        )
    model = load_model("segmenter", threads, folder)
    if "prompts" not in model.card.input:
        raise BadOption(
            f"{folder} holds a segmenter of whole slices, which takes no prompt; name a folder made by python -m "
            "nodulens.train segmenter --fold."
        )
    return model


def _segments_again(recipe: Recipe, data: Path) -> bool:
    """Whether a prompted network segments regions again, and there are nodules to evaluate that on."""
    second = recipe.segmenter is not None and recipe.prompted is not None and not recipe.sliding_window
    return second and recipe.labels == "lidc" and (data / STACKS).exists()


def _check_whole_scans_alone(name: str, data: Path, split: object) -> None:
    """Check the input for a method without networks of its own, which is evaluated on whole scans only.

    Raises:
        BadOption: a split is given, which names the test patients of a run's networks.
        NotFound: there is no such scan.
    """
    if split is not None:
        raise BadOption(f"{name!r} has no networks of its own to evaluate on test patients: leave out --split.")
    if not scans_in(data):
        wanted = ", ".join(sorted(EVALUATION_PATIENTS))
        raise NotFound(f"{name!r} is evaluated on whole scans, and {data / 'ct'} has no folder of {wanted}.")
