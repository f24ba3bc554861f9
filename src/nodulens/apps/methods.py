"""Methods by name, for ``nodulens train``, ``evaluate`` and ``analyze --recipe``: a recipe, or the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodulens.apps.typed import typed_command
from nodulens.core.private import check_folder
from nodulens.errors import BadOption, MissingExtra, MissingWeights, NoTestPatients, NotFound
from nodulens.methods.load import load_networks, load_sam_of, prompted_by
from nodulens.methods.method import Method
from nodulens.methods.recipe import Recipe, changed_in_use
from nodulens.methods.run_record import method_named, read_run
from nodulens.pipeline import Progress, analyze, silent
from nodulens.report.record import Report, WeightRef
from nodulens.runtime.engine import Model, load_model

if TYPE_CHECKING:
    from nodulens.core.volume import Volume
    from nodulens.data.splits import Split
    from nodulens.evaluate.refinement import Steps
    from nodulens.presentation.evaluation import Table
    from nodulens.stages.sam import Sam
    from nodulens.train.run import EvaluatedNetwork

SCHEMA = "nodulens-method/1"


def evaluate(
    name: str,
    data: Path,
    split: Path | None,
    *,
    output: Path | None = None,
    prompted: Path | None = None,
    threads: int | None = None,
    settings: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """How a method does where it was not trained: its own networks on whom the run left out, all of it on whole scans.

    A method that outlines its regions again is judged with and without that second step, by a prompted network that has
    not seen who judges; one whose filter can find by itself, by that as well. The networks of a run need no SAM to be
    judged: where its weights or packages are missing, what it takes part in is left out, and a note says so.

    Args:
        output: folder for a page with curves and pictures of a run.
        prompted: folder of a prompted network of ours in place of the one that ships, which has seen every patient who
            may train.
        threads: CPU threads.
        settings: ``name=value``, of how whole scans are analyzed; see :func:`nodulens.methods.recipe.changed_in_use`.
        progress: told each stage and how much of it is done.

    Returns:
        For JSON: ``networks`` (figures and judged rows of each), ``scans``, ``notes``, sentences on what was left out,
        and where there are such, ``second_step`` (compared, and graded or None) and ``slid``, scans by the filter.

    Raises:
        BadOption: a page or a split is asked for of what is no run, a page where a file is, a setting that training
            decided, or a prompted network that this method has no use for.
        NobodyJudges: the run left nobody out, and there is no scan to judge it on.
        NotFound: of what is no run, and no scan to judge it on.
        MissingExtra: judging networks on their own needs packages that are not installed.
        MissingWeights: networks that are not there, or SAM where there is nothing else to judge.
    """
    from nodulens.data.splits import read_split
    from nodulens.evaluate.scans import scans_in

    if output is not None:
        check_folder(output)
    recipe, folder = method_named(name)
    recipe = changed_in_use(recipe, settings)
    if not recipe.networks:
        _check_whole_scans_alone(name, data, split, output)
    models = load_networks(recipe, folder, threads)
    if prompted is not None:
        models = replace(models, segmenter=_own_prompted(prompted, recipe, threads))
    who = read_split(split) if split else None
    judged: dict[str, EvaluatedNetwork] = {}
    notes = list(recipe.caveats)
    if folder is not None and recipe.networks:
        try:
            from nodulens.train.run import evaluate_run, use_threads
        except ImportError as error:
            raise MissingExtra("train", error.name or "torch") from error
        use_threads(threads)
        try:
            judged = evaluate_run(folder, data, who, threads=threads, progress=progress)
        except NoTestPatients as error:
            if not scans_in(data):
                raise
            notes.append(f"Its networks were judged together on whole scans alone. {error}")

    weights = tuple(WeightRef(one.model.card.name, one.model.card.sha256) for one in judged.values())
    whole = _Whole(weights)
    again = bool(judged) and _outlines_again(recipe, data)
    if again or scans_in(data):
        try:
            sam = load_sam_of(recipe)
        except (MissingWeights, MissingExtra) as error:
            if not judged:
                raise
            what = " and the second step" if again else ""
            notes.append(f"Whole scans{what} were left out, for what outlines there is missing. {error}")
        else:
            method = Method(recipe, models, prompted_by(recipe, sam))
            whole = _judge_whole(method, data, progress)
            if again and folder is not None:
                steps, left_out = _second_step(method, folder, data, who, sam, progress)
                whole = replace(whole, steps=steps)
                notes += left_out
    if output is not None and folder is not None:
        from nodulens.evaluate.run_page import evaluation_of
        from nodulens.presentation.evaluation import Provenance
        from nodulens.presentation.page import write_evaluation

        provenance = Provenance(command=typed_command(), weights=whole.weights)
        page = evaluation_of(folder, judged, notes, provenance, scans=whole.scans, slid=whole.slid, steps=whole.steps)
        write_evaluation(page, output)
    networks = {part: asdict(one.outcome) for part, one in judged.items()}
    return {"schema": SCHEMA, "recipe": recipe.name, "networks": networks, **whole.told(), "notes": notes}


@dataclass(frozen=True)
class _Whole:
    """How the networks of a method do together.

    Attributes:
        weights: of all that took part.
        scans, slid: records of whole scans, by the method and by its filter alone.
        steps: nodules with and without a second step.
    """

    weights: tuple[WeightRef, ...]
    scans: list[dict[str, Any]] = field(default_factory=list)
    slid: list[dict[str, Any]] = field(default_factory=list)
    steps: Steps | None = None

    def told(self) -> dict[str, Any]:
        """For JSON; what there is none of is not there, but for scans."""
        from nodulens.evaluate.scans import response_curve

        out: dict[str, Any] = {"scans": self.scans}
        if self.scans:
            out["curve"] = response_curve(self.scans)
        if self.slid:
            out["slid"] = self.slid
        if self.steps is not None:
            parts = {"compared": self.steps.compared, "graded": self.steps.graded}
            out["second_step"] = {name: part and asdict(part) for name, part in parts.items()}
        return out


def _judge_whole(method: Method, data: Path, progress: Progress) -> _Whole:
    """A method on whole scans, and by its filter alone where it has one."""
    from nodulens.evaluate.scans import evaluate_scans, scans_in

    whole = _Whole(method.weights)
    if not scans_in(data):
        return whole
    scans = evaluate_scans(data, partial(_twice, method, progress))
    if method.recipe.filter is None or method.recipe.sliding_window:
        return replace(whole, scans=scans)
    alone = replace(method, recipe=replace(method.recipe, sliding_window=True))
    return replace(whole, scans=scans, slid=evaluate_scans(data, partial(_twice, alone, progress)))


def _twice(method: Method, progress: Progress, ct: Volume) -> tuple[Report, Report]:
    """A report, and the same for the curve."""
    report = analyze(ct, method=method, progress=progress)
    return report, report


def _own_prompted(folder: Path, recipe: Recipe, threads: int | None) -> Model:
    """A prompted network of ours from a folder.

    Raises:
        BadOption: the recipe prompts none, or what lies there is another network.
        MissingWeights, CorruptWeights: it is not there, or not what its card says.
    """
    if recipe.prompted != "network":
        raise BadOption(
            f"--prompted names a network of ours, and {recipe.name} outlines by {recipe.prompted or 'its segmenter'}: "
            "add --set prompted=network, or leave it out."
        )
    model = load_model("segmenter", threads, folder)
    if "prompts" not in model.card.input:
        raise BadOption(
            f"{folder} holds a segmenter of whole slices, which takes no prompt; name a folder that python -m "
            "nodulens.train segmenter --fold has made."
        )
    return model


def _outlines_again(recipe: Recipe, data: Path) -> bool:
    """Whether regions are outlined again by a prompted network, and there are nodules to judge that on."""
    from nodulens.data.material import STACKS

    second = recipe.segmenter is not None and recipe.prompted is not None and not recipe.sliding_window
    return second and recipe.labels == "lidc" and (data / STACKS).exists()


def _second_step(
    method: Method, folder: Path, data: Path, who: Split | None, sam: Sam | None, progress: Progress
) -> tuple[Steps | None, tuple[str, ...]]:
    """With and without the second step, on nodules of those who judge the run and whom no network of it has seen; or
    why that cannot be."""
    from nodulens.data.material import STACKS, Stacks
    from nodulens.evaluate import central_slices
    from nodulens.evaluate.refinement import of_run
    from nodulens.train.run import unseen

    recipe, own = method.recipe, method.models.own
    ours = method.models.segmenter
    stacks = Stacks(data)
    able = unseen(folder, stacks.patients, own.values(), who)
    judges = able if sam else unseen(folder, stacks.patients, [*own.values(), ours], who)
    left_out = "The comparison with and without the second step was left out: "
    if able and not judges:
        fold = read_run(folder).fold
        told = "N" if fold is None else str(fold)
        note = (
            f"{left_out}the prompted network in {ours.card.path.parent} has seen all {len(able)} patients who judge. "
            f"Train one that has not: python -m nodulens.train segmenter --data {data} --fold {told} --run FOLDER; and "
            f"add --prompted FOLDER/segmenter/fold{told}."
        )
        return None, (note,)
    outline = (central_slices.close_up(sam) if sam else central_slices.own(ours, recipe.rounds_detected))("box", None)
    steps = of_run(recipe, own, stacks, judges, outline, partial(progress, "second step"))
    progress("second step", 1.0)
    return steps, () if steps else (f"{left_out}whoever judges has no nodule of a known class in {STACKS}.",)


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
    from nodulens.presentation.evaluation import Table
    from nodulens.presentation.tables import scan_tables

    for part, outcome in found["networks"].items():
        yield Table(f"{found['recipe']}: {part}", ("", "value"), tuple(_flat(outcome["figures"])))
    if "second_step" in found:
        from nodulens.evaluate.refinement import tables as step_tables

        compared, graded = (found["second_step"][key] for key in ("compared", "graded"))
        yield from step_tables(compared["figures"], graded and graded["figures"])
    yield from scan_tables(found["scans"], found.get("slid", ()))


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
