"""The main figures of a run's networks, as the screen and the head of its page show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nodulens.evaluate.refinement import Steps
from nodulens.metrics.estimates import Estimate
from nodulens.presentation.evaluation import Metric, Table
from nodulens.stages.classify_crop import SIDES
from nodulens.train.tasks.classification_figures import ClassificationFigures, EvaluatedNodules
from nodulens.train.tasks.fp_reduction_figures import EvaluatedPatches, FpReductionFigures
from nodulens.train.tasks.protocol import Evaluated
from nodulens.train.tasks.segmentation_figures import EvaluatedSlices, SegmentationFigures


def metrics_of(evaluated: Evaluated) -> list[Metric]:
    """The main figures of a network, with intervals by patient."""
    match evaluated:
        case EvaluatedSlices():
            return list(_of_slices(evaluated.figures))
        case EvaluatedPatches():
            return list(_of_patches(evaluated.figures))
        case EvaluatedNodules():
            return list(_of_nodules(evaluated.figures))
    raise TypeError(f"No main figures are known of {type(evaluated).__name__}.")


def metrics_of_steps(steps: Steps) -> list[Metric]:
    """Dice of the first step, of both, and their difference."""
    figures = steps.compared.figures
    words = {
        "first step alone": figures.first,
        "refined": figures.refined,
        "refined minus first step": figures.gain,
    }
    return [_metric(f"Dice, {text}", one.dice, figures.nodules) for text, one in words.items()]


def headline_table(title: str, metrics: Iterable[tuple[str, Metric]]) -> Table:
    """Main figures for the screen: a row a figure, named by its network."""
    rows = tuple(
        (name, metric.name, str(Estimate(metric.value, metric.low, metric.high)), metric.n) for name, metric in metrics
    )
    return Table(title, ("", "", "value (95 % by patient)", "n"), rows)


def _of_slices(figures: SegmentationFigures) -> Iterator[Metric]:
    if figures.close_ups is not None:
        yield _metric("Dice, close-ups of real nodules", figures.close_ups.dice, figures.close_ups.nodules)
    for name, found in figures.classes.items():
        yield _metric(f"Dice, {name}", found.dice, found.with_class, "mean over the slices that show it")


def _of_patches(figures: FpReductionFigures) -> Iterator[Metric]:
    kept = figures.kept
    if kept is None:
        return
    every, on = figures.patches, figures.on_nodules
    words = {
        "AUC, nodule against non-nodule": (kept.auc, every),
        "Average precision": (kept.average_precision, every),
        "Precision, nodules among those kept": (kept.precision, every),
        "Recall, nodules kept": (kept.recall, on),
        "Specificity, non-nodules rejected": (kept.specificity, every - on),
    }
    for text, (figure, n) in words.items():
        yield _metric(text, figure, n, "patches; nodules have equal weight")


def _of_nodules(figures: ClassificationFigures) -> Iterator[Metric]:
    for words, group in figures.groups.items():
        if group.beside_diameter.ranking is not None:
            auc = group.beside_diameter.ranking.auc_estimate
            yield _metric(f"AUC, {words}", auc, group.beside_diameter.nodules)
        if group.decisions is not None:
            decisions = group.decisions
            rates, decided = decisions.rates, decisions.judged
            own = zip(decisions.classes, decisions.confusion, strict=True)
            malignant = sum(sum(called) for name, called in own if SIDES.get(name) == 1)
            yield _metric(f"Accuracy, {words}", rates.accuracy, decided, "all classes")
            yield _metric(f"Sensitivity, {words}", rates.sensitivity, malignant, "malignant nodules")
            yield _metric(f"Specificity, {words}", rates.specificity, decided - malignant, "all others")


def _metric(name: str, figure: Estimate, n: int, note: str = "") -> Metric:
    return Metric(name, figure.value, figure.low, figure.high, n, note=note)
