"""Data sets, splits and leakage as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table

from nodulens.apps.show import plain

if TYPE_CHECKING:
    from nodulens.data.dataset import Dataset, Item
    from nodulens.data.luna16 import Luna16Summary
    from nodulens.data.splits import Split
    from nodulens.evaluate.leakage import Figure, Leakage


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose first column is text and whose others are numbers, set right; None is a gap."""
    first, *others = columns
    out = Table(
        Column(plain(first)),
        *(Column(plain(name), justify="right") for name in others),
        title=plain(title),
        title_justify="left",
    )
    for row in rows:
        out.add_row(*(plain(_cell(value)) for value in row))
    return out


def _cell(value: object) -> str:
    match value:
        case None:
            return "–"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return str(value)


def of_dataset(dataset: Dataset) -> tuple[dict[str, object], Table]:
    """What a data set holds, as a record and as a table: items and patients of each stratum."""
    items = dataset.items()
    strata = Counter(item.stratum for item in items)
    patients = {stratum: _patients(i for i in items if i.stratum == stratum) for stratum in strata}
    rows: list[Sequence[object]] = [(s, n, patients[s]) for s, n in sorted(strata.items())]
    rows.append(("all", len(items), _patients(items)))
    record = {
        "name": dataset.name,
        "items": len(items),
        "patients": _patients(items),
        "strata": {s: {"items": n, "patients": patients[s]} for s, n in sorted(strata.items())},
    }
    return record, table(dataset.name, ("", "items", "patients"), rows)


def _patients(items: Iterable[Item]) -> int:
    return len({item.patient_id for item in items})


def of_luna16(found: Luna16Summary) -> Iterator[Table]:
    """What papers print of LUNA16."""
    counts: list[Sequence[object]] = [
        ("scans of the challenge", found.scans),
        ("their patients", found.patients),
        ("scans in this folder", found.scans_here),
        ("nodules", found.nodules),
        ("scans with a nodule", found.scans_with_nodules),
        ("nodules that three or more of LIDC's readers marked in the challenge's scans", found.lidc_nodules),
        ("findings left out of scoring", found.excluded),
        ("  of them with a size", found.excluded_with_diameter),
    ]
    for name, (on, off) in found.candidates.items():
        counts += [(f"{name}: on a nodule", on), (f"{name}: non-nodules", off)]
    yield table("LUNA16", ("", "count"), counts)
    if found.subsets:
        yield table("Scans here", ("subset", *found.subsets), [("scans", *found.subsets.values())])
    if found.nodules:
        yield table("Nodules", ("in a scan", *found.nodules_per_scan), [("scans", *found.nodules_per_scan.values())])
        yield table("Diameter", ("", *found.diameter_mm), [("mm", *found.diameter_mm.values())])
        yield table("Diameter", ("", *found.diameter_bands), [("nodules", *found.diameter_bands.values())])
    yield table("Slice thickness", ("mm", *found.slice_thickness_mm), [("scans", *found.slice_thickness_mm.values())])


def of_split(split: Split, items: Sequence[Item]) -> Table:
    """Patients and items of each group, stratum by stratum."""
    from nodulens.data.splits import by_group

    counts = dict(by_group(split, items))
    rows: list[Sequence[object]] = [
        ("patients", *(len(split.patients(group)) for group in counts)),
        ("items", *(of.total() for of in counts.values())),
    ]
    rows += [(stratum, *(of[stratum] for of in counts.values())) for stratum in sorted({i.stratum for i in items})]
    return table(f"Split: {split.method}", ("", *counts), rows)


def of_leakage(found: Leakage) -> Iterator[Table]:
    """The same classifiers under three splits, and what needs no image."""
    arms: dict[tuple[str, str], list[Figure]] = {}
    for figure in found.splits:
        arms.setdefault((figure.question, figure.source), []).append(figure)
    splits = [figure.split for figure in next(iter(arms.values()))]
    rows = [(question, source, *map(_auc, figures)) for (question, source), figures in arms.items()]
    columns = ("what is told apart", "by", *(f"split {split}" for split in splits))
    yield table("AUC (95 % interval by patient) of one classifier under three splits", columns, rows)
    rows = [(f.question, f.source, f"{f.rows:,}", _auc(f)) for f in found.inputs]
    yield table("AUC of what needs no image", ("what is told apart", "by", "rows", "AUC"), rows)


def _auc(figure: Figure) -> str:
    return f"{figure.auc.value:.3f} ({figure.auc.low:.3f}–{figure.auc.high:.3f})"
