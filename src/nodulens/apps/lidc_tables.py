"""The summary of LIDC-IDRI as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from nodulens.data.lidc_summary import Kappa, LidcSummary


def tables(found: LidcSummary) -> Iterator[Table]:
    """What papers print of LIDC-IDRI, the published figures beside ours."""
    published = found.published
    counts = _table("LIDC-IDRI", "", "here", *published["nodules"])
    counts.add_row("scans", f"{found.scans:,}")
    counts.add_row("patients", f"{found.patients:,}")
    counts.add_row("scans without a nodule of 3 mm or more", f"{found.scans_without_nodules:,}")
    counts.add_row("reader annotations", f"{found.reader_annotations:,}")
    counts.add_row("outlines (of them holes)", f"{found.contours:,} ({found.holes:,})")
    rows = {"all": found.nodules, **found.nodules_by_readers}
    for readers, count in rows.items():
        name = "nodules" if readers == "all" else f"  marked by {readers}"
        others = (by.get(readers) for by in published["nodules"].values())
        counts.add_row(name, f"{count:,}", *("" if n is None else f"{n:,}" for n in others))
    yield counts

    values = list(found.malignancy.nodule_median)
    rated = _table("Ratings", "", *values)
    for name, rating in (("malignancy", found.malignancy), ("texture", found.texture)):
        _histogram(rated, f"{name}, annotations", values, rating.annotations)
        _histogram(rated, f"{name}, nodules by median", values, rating.nodule_median)
    yield rated

    classes = next(iter(found.malignancy_classes.values()))
    pooled = _table("Nodules by malignancy", "readers pooled by", *(name.replace("_", " ") for name in classes))
    for by, own in found.malignancy_classes.items():
        _histogram(pooled, by, list(classes), own)
    yield pooled

    for title, sizes in (("Slice thickness", found.slice_thickness_mm), ("Slice spacing", found.slice_spacing_mm)):
        table = _table(title, "mm", *sizes)
        _histogram(table, "scans", list(sizes), sizes)
        yield table
    pixel = _table("Pixel size", "mm", *found.pixel_mm)
    pixel.add_row("scans", *(f"{v:g}" for v in found.pixel_mm.values()))
    yield pixel

    agreement = _table(
        "Agreement on malignancy", "", "readers", "nodules", "Fleiss' kappa", "Cohen's kappa (range)", "published"
    )
    _kappas(agreement, "exactly n readers", found.kappa, published["kappa"])
    for reading, kappas in found.kappa_readings.items():
        _kappas(agreement, reading, kappas, {})
    yield agreement


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _histogram(table: Table, name: str, columns: list[str], counts: Mapping[str, int]) -> None:
    table.add_row(name, *(f"{counts[c]:,}" if c in counts else "" for c in columns))


def _kappas(table: Table, reading: str, found: Mapping[str, Kappa], published: Mapping[str, float]) -> None:
    for n, k in found.items():
        cohen = f"{k.cohen_mean:.4f} ({k.cohen_min:.4f} to {k.cohen_max:.4f})"
        stated = f"{published[n]:.4f}" if n in published else ""
        table.add_row(reading, n, f"{k.nodules:,}", f"{k.fleiss:.4f}", cohen, stated)
        reading = ""
    table.add_section()
