"""Counts of LIDC-IDRI from the annotation database, beside published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from nodulens.data.lidc import LidcScan, Unit, by_patient, cluster, ratings_of
from nodulens.data.ratings import Malignancy, Pooling, Ratings
from nodulens.errors import BadValues
from nodulens.metrics.agreement import cohen_kappa, fleiss_kappa

SCHEMA = "nodulens-lidc-summary/1"
READERS = (2, 3, 4)
PUBLISHED: Mapping[str, Any] = {
    "scans": 1018,
    "patients": 1010,
    "nodules": {
        "Armato et al., Med Phys 2011, from the original readings": {"all": 2669, "4": 928},
        "Wang et al., Acad Radiol 2015, from the XML": {"all": 2655, "1": 775, "2": 488, "3": 481, "4": 911},
    },
    "kappa": {"2": 0.1757, "3": 0.1721, "4": 0.1940},
}
NOTES = (
    "The database holds nodules of 3 mm or more alone. Lesions below 3 mm, which the published 7,371 counts too, and "
    "non-nodules are only in the XML.",
    "Which outlines are of one nodule is nowhere written: the published 2,669 and 928 come from the readings "
    "themselves, ours from outlines that come near one another, as pylidc has it. 14 crowded clusters of five to eight "
    "readings hold neighbours whose outlines touch; with those as nodules of four readers there are 911, as Wang et "
    "al. count, and their 488 and 481 of two and three readers are ours too. What else is missing from 2,669 and 928 "
    "the database cannot tell.",
    "The database has no reader column, so Cohen's kappa depends on who is called first: mean and range are over "
    "random orders of the readers in each nodule. Fleiss' kappa does not ask who is who.",
    "The published kappas are Fleiss' on nodules with exactly n readers, clustered by pylidc, with the ratings 1 to 5 "
    "as categories: ours cut after four digits. For two readers that is 0.17573, below the mean of Cohen's and all but "
    'its least. No other reading of "n readers", and no other categories, give them.',
)


@dataclass(frozen=True)
class Kappa:
    """Agreement on malignancy among n readers, 1 the whole.

    Attributes:
        nodules: how many it is counted on.
        fleiss: exact.
        cohen_mean, cohen_min, cohen_max: of two of the n readers, over random orders of the readers in each nodule.
    """

    nodules: int
    fleiss: float
    cohen_mean: float
    cohen_min: float
    cohen_max: float


@dataclass(frozen=True)
class Rated:
    """How often each value was given, values as text in rising order.

    Attributes:
        annotations: over reader annotations.
        nodule_median: over nodules, by the median of their readers; halves between two readers.
    """

    annotations: dict[str, int]
    nodule_median: dict[str, int]


@dataclass(frozen=True)
class LidcSummary:
    """The counts of the usual tables.

    Attributes:
        patients_with_several_scans: their ids; splits must keep their scans together.
        contours, holes: outlines of all readers, and those of them that are of holes.
        nodules_by_readers: number of readings → nodules; five and more are clusters that cannot be separated.
        malignancy_classes: way of pooling readers → class → nodules.
        slice_thickness_mm, slice_spacing_mm: value → scans.
        pixel_mm: least, quartiles and largest over scans.
        kappa: by number of readers, as published: exactly n readers, ratings 1…5.
        kappa_readings: other readings of "n readers" and of the categories, by number of readers.
        published, notes: what others counted, and why it differs.
    """

    scans: int
    patients: int
    patients_with_several_scans: tuple[str, ...]
    scans_without_nodules: int
    reader_annotations: int
    contours: int
    holes: int
    nodules: int
    nodules_by_readers: dict[str, int]
    malignancy: Rated
    texture: Rated
    malignancy_classes: dict[str, dict[str, int]]
    slice_thickness_mm: dict[str, int]
    slice_spacing_mm: dict[str, int]
    pixel_mm: dict[str, float]
    kappa: dict[str, Kappa]
    kappa_readings: dict[str, dict[str, Kappa]]
    published: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, **asdict(self)}


def summarize(scans: Sequence[LidcScan], *, orders: int = 200, seed: int = 0) -> LidcSummary:
    """Count scans, nodules, outlines and ratings.

    Args:
        scans: of :func:`nodulens.data.lidc.read_database`, or some of them.
        orders: random orders of the readers for Cohen's kappa.
        seed: of those orders.

    Raises:
        BadValues: no scans, or no nodules of which a kappa could be counted.
    """
    ratings = _clustered(scans, "pixels")
    missing = [n for n in READERS if not (ratings.readers == n).any()]
    if missing:
        raise BadValues(f"No nodule has exactly {missing[0]} readers: a summary needs the whole database.")
    contours = [c for s in scans for r in s.readings for c in r.contours]
    patients = by_patient(scans)
    pixel = np.quantile([s.pixel_mm for s in scans], [0, 0.25, 0.5, 0.75, 1])
    ratings_given = ratings.of("malignancy")

    def kappas(tables: Iterable[NDArray[np.uint8]], categories: Sequence[int] = range(1, 6)) -> dict[str, Kappa]:
        return {
            str(n): kappa(rows, categories, orders=orders, seed=seed) for n, rows in zip(READERS, tables, strict=True)
        }

    def exactly(ratings_given: NDArray[np.uint8], readers: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        return [ratings_given[readers == n, :n] for n in READERS]

    in_mm = _clustered(scans, "mm")
    classes = np.select([ratings_given == 0, ratings_given < 3, ratings_given == 3], [0, 1, 2], 3).astype(np.uint8)
    return LidcSummary(
        scans=len(scans),
        patients=len(patients),
        patients_with_several_scans=tuple(p for p, own in patients.items() if len(own) > 1),
        scans_without_nodules=sum(not s.readings for s in scans),
        reader_annotations=sum(len(s.readings) for s in scans),
        contours=len(contours),
        holes=sum(not c.inclusion for c in contours),
        nodules=len(ratings_given),
        nodules_by_readers=_counted(ratings.readers.tolist()),
        malignancy=_rated(ratings, "malignancy"),
        texture=_rated(ratings, "texture"),
        malignancy_classes={
            by: {m.name.lower(): int((ratings.malignancy(by) == m).sum()) for m in Malignancy}
            for by in get_args(Pooling)
        },
        slice_thickness_mm=_counted(round(s.slice_thickness_mm, 3) for s in scans),
        slice_spacing_mm=_counted(round(s.slice_mm, 3) for s in scans),
        pixel_mm=dict(zip(("min", "q1", "median", "q3", "max"), pixel.round(4).tolist(), strict=True)),
        kappa=kappas(exactly(ratings_given, ratings.readers)),
        kappa_readings={
            "exactly n readers, clustered in millimetres": kappas(exactly(in_mm.of("malignancy"), in_mm.readers)),
            "first n of at least n readers": kappas(ratings_given[ratings.readers >= n, :n] for n in READERS),
            "exactly n readers, three classes": kappas(exactly(classes, ratings.readers), range(1, 4)),
            "all nodules, n places, 0 where nobody marked": kappas((ratings_given[:, :n] for n in READERS), range(6)),
        },
        published=PUBLISHED,
        notes=NOTES,
    )


def kappa(ratings_given: NDArray[np.uint8], categories: Sequence[int], *, orders: int, seed: int) -> Kappa:
    """Agreement among anonymous readers.

    Args:
        ratings_given: (N, n) one category a reader.
        categories: all that may be said.
        orders: random orders of the readers for Cohen's kappa.
        seed: of those orders.
    """
    random = np.random.default_rng(seed)
    cohen = [cohen_kappa(a, b) for a, b, *_ in (random.permuted(ratings_given, axis=1).T for _ in range(orders))]
    fleiss = fleiss_kappa((ratings_given[:, :, None] == np.asarray(categories)).sum(1))
    return Kappa(len(ratings_given), fleiss, float(np.mean(cohen)), min(cohen), max(cohen))


def _clustered(scans: Sequence[LidcScan], unit: Unit) -> Ratings:
    return ratings_of([nodule for scan in scans for nodule in cluster(scan, unit=unit)])


def _rated(ratings: Ratings, name: str) -> Rated:
    given = ratings.of(name)
    return Rated(_counted(given[given > 0].tolist()), _counted(ratings.median(name).tolist()))


def _counted(values: Iterable[float]) -> dict[str, int]:
    """How often each value occurs, by rising value, as JSON has it."""
    return {f"{value:g}": count for value, count in sorted(Counter(values).items())}
