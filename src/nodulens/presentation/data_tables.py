"""Data sets and splits as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nodulens.data.dataset import Dataset, Item
from nodulens.data.downloads import TITLES, DataCheck
from nodulens.data.luna16 import Luna16Summary
from nodulens.data.splits import Split, by_group
from nodulens.presentation.evaluation import Cell, Table

Rows = list[tuple[Cell, ...]]


def of_dataset(dataset: Dataset) -> tuple[dict[str, object], Table]:
    """Items and patients of each stratum of a data set, as a record and as a table."""
    items = dataset.items()
    strata = Counter(item.stratum for item in items)
    patients = {stratum: _patients(i for i in items if i.stratum == stratum) for stratum in strata}
    rows: Rows = [(s, n, patients[s]) for s, n in sorted(strata.items())]
    rows.append(("all", len(items), _patients(items)))
    record = {
        "name": dataset.name,
        "items": len(items),
        "patients": _patients(items),
        "strata": {s: {"items": n, "patients": patients[s]} for s, n in sorted(strata.items())},
    }
    return record, Table(dataset.name, ("", "items", "patients"), tuple(rows))


def _patients(items: Iterable[Item]) -> int:
    return len({item.patient_id for item in items})


def of_luna16(found: Luna16Summary) -> Iterator[Table]:
    """Tables of LUNA16."""
    counts: Rows = [
        ("scans of the challenge", found.scans),
        ("their patients", found.patients),
        ("scans in this folder", found.scans_here),
        ("nodules", found.nodules),
        ("scans with a nodule", found.scans_with_nodules),
        ("nodules that three or more of LIDC's readers outlined in the challenge's scans", found.lidc_nodules),
        ("findings left out of scoring", found.excluded),
        ("  of them with a size", found.excluded_with_diameter),
    ]
    for name, (on, off) in found.candidates.items():
        counts += [(f"{name}: on a nodule", on), (f"{name}: non-nodules", off)]
    yield Table("LUNA16", ("", "count"), tuple(counts))
    if found.subsets:
        yield _line("Scans here", "subset", "scans", found.subsets)
    if found.nodules:
        yield _line("Nodules", "in a scan", "scans", found.nodules_per_scan)
        yield _line("Diameter", "", "mm", found.diameter_mm)
        yield _line("Diameter", "", "nodules", found.diameter_bands)
    yield _line("Slice thickness", "mm", "scans", found.slice_thickness_mm)


def _line(title: str, head: str, name: str, values: Mapping[str, float]) -> Table:
    """A table of one row."""
    return Table(title, (head, *values), ((name, *values.values()),))


def of_split(split: Split, items: Sequence[Item]) -> Table:
    """Patients and items of each group, stratum by stratum."""
    counts = dict(by_group(split, items))
    rows: Rows = [
        ("patients", *(len(split.patients(group)) for group in counts)),
        ("items", *(of.total() for of in counts.values())),
    ]
    rows += [(stratum, *(of[stratum] for of in counts.values())) for stratum in sorted({i.stratum for i in items})]
    return Table(f"Split: {split.method}", ("", *counts), tuple(rows))


def of_check(found: DataCheck) -> Table:
    """What of a data set is there, part by part."""
    rows: Rows = [
        (part.name, part.here, part.whole, part.broken or "", part.gigabytes or "", _percent(part.here, part.whole))
        for part in found.parts
    ]
    return Table(TITLES[found.data_set], ("", "here", "of", "broken", "GB", "%"), tuple(rows))


def _percent(here: int, whole: int) -> Cell:
    return round(100 * here / whole, 1) if whole else ""
