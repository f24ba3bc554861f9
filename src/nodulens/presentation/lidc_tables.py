"""The summary of LIDC-IDRI as tables, with published figures beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nodulens.data.lidc_summary import Kappa, LidcSummary
from nodulens.presentation.evaluation import Cell, Table

Row = tuple[Cell, ...]


def tables(found: LidcSummary) -> Iterator[Table]:
    """Tables of LIDC-IDRI."""
    published = found.published
    gap = (None,) * len(published["nodules"])
    counts: list[Row] = [
        ("scans", found.scans, *gap),
        ("patients", found.patients, *gap),
        ("scans without a nodule of 3 mm or more", found.scans_without_nodules, *gap),
        ("reader annotations", found.reader_annotations, *gap),
        ("outlines (of them holes)", f"{found.contours:,} ({found.holes:,})", *gap),
    ]
    for readers, count in {"all": found.nodules, **found.nodules_by_readers}.items():
        name = "nodules" if readers == "all" else f"  outlined by {readers}"
        counts.append((name, count, *(by.get(readers) for by in published["nodules"].values())))
    yield Table("LIDC-IDRI", ("", "here", *published["nodules"]), tuple(counts))

    values = list(found.malignancy.nodule_median)
    rated = []
    for name, rating in (("malignancy", found.malignancy), ("texture", found.texture)):
        rated.append(_histogram(f"{name}, annotations", values, rating.annotations))
        rated.append(_histogram(f"{name}, nodules by median", values, rating.nodule_median))
    yield Table("Ratings", ("", *values), tuple(rated))

    classes = list(next(iter(found.malignancy_classes.values())))
    rows = tuple(_histogram(by, classes, own) for by, own in found.malignancy_classes.items())
    head = ("readers pooled by", *(name.replace("_", " ") for name in classes))
    yield Table("Nodules by malignancy", head, rows)

    for title, sizes in (("Slice thickness", found.slice_thickness_mm), ("Slice spacing", found.slice_spacing_mm)):
        yield Table(title, ("mm", *sizes), (_histogram("scans", list(sizes), sizes),))
    yield Table("Pixel size", ("mm", *found.pixel_mm), (("scans", *found.pixel_mm.values()),))

    kappas = [*_kappas("exactly n readers", found.kappa, published["kappa"])]
    for reading, own in found.kappa_readings.items():
        kappas += _kappas(reading, own, {})
    head = ("", "readers", "nodules", "Fleiss' kappa", "Cohen's kappa (range)", "published")
    yield Table("Agreement on malignancy", head, tuple(kappas))


def _histogram(name: str, columns: Sequence[str], counts: Mapping[str, int]) -> Row:
    return name, *(counts.get(column) for column in columns)


def _kappas(reading: str, found: Mapping[str, Kappa], published: Mapping[str, float]) -> Iterator[Row]:
    for n, k in found.items():
        cohen = f"{k.cohen_mean:.4f} ({k.cohen_min:.4f} to {k.cohen_max:.4f})"
        stated = f"{published[n]:.4f}" if n in published else ""
        yield reading, n, k.nodules, f"{k.fleiss:.4f}", cohen, stated
        reading = ""
