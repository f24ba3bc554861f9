"""Secondary captures for systems that show neither SEG nor SR: a summary, and a key image of each nodule."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from highdicom.sc import SCImage
from highdicom.uid import UID
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from nodulens.clinical.record import Result
from nodulens.core.nodule import Box, Nodule
from nodulens.core.volume import crop_array
from nodulens.dicom_objects.study import MAKER, Context, equip
from nodulens.report.guideline_words import either
from nodulens.report.page import MALIGNANCY_ESTIMATE
from nodulens.report.pictures import contours
from nodulens.report.record import Report

SERIES_NUMBER = 9803
WIDTH, HEIGHT, MARGIN = 1152, 768, 24
CLOSEUP_MM = 50.0
THUMBNAIL, ROWS = 72, 5
"""Pixels of a picture in the summary, and rows of a page."""
WINDOW_HU = (-1350.0, 250.0)
TITLE, TEXT, SMALL = 30, 20, 16
LINE = 1.35
"""Height of a line, in sizes of its letters."""
BLACK, WHITE, GREY, ORANGE = (0, 0, 0), (240, 240, 240), (160, 160, 160), (255, 165, 60)
NOT_A_DEVICE = "For research. Not a medical device: no diagnosis and no decision about a person may rest on it."

LEAST_SHARE = 0.1
"""Cosine from which a direction is said to lead to a side as well."""
Pixels = NDArray[np.uint8]


def captures(report: Report, context: Context) -> Iterator[Dataset]:
    """The pages of the summary, then the key images in the order of the nodules; one series."""
    series = UID()
    pages = max(1, -(-len(report.nodules) // ROWS))
    number = 0
    for page in range(pages):
        number += 1
        image = _summary(report, context, page, pages)
        yield _object(np.asarray(image), context, (series, number, "nodulens: summary"), None)
    for nodule in report.nodules:
        number += 1
        image = _key_image(nodule, report, context)
        words = f"nodulens: nodule {nodule.id}"
        yield _object(np.asarray(image), context, (series, number, words), _letters(context))


def _object(pixels: Pixels, context: Context, named: tuple[str, int, str], letters: tuple[str, str] | None) -> Dataset:
    """A picture as an object; ``named`` are the UID of its series, its number there, and what it shows."""
    series, number, words = named
    made = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=str(context.ct.source.study_uid),
        series_instance_uid=series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=number,
        manufacturer=MAKER,
        patient_orientation=("L", "P"),  # highdicom takes single letters alone
    )
    equip(made, context, "nodulens: summary and key images")
    made.PatientOrientation = None if letters is None else list(letters)
    made.ImageComments, made.BurnedInAnnotation = words, "NO"
    return made


def _key_image(nodule: Nodule, report: Report, context: Context) -> Image.Image:
    """The central slice as stored, the nodule outlined, beside its close-up and its measurements."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BLACK)
    draw = ImageDraw.Draw(canvas)
    side = HEIGHT - 2 * MARGIN
    z = nodule.position.central_slice
    whole = Box((z, 0, 0), (z + 1, *context.ct.geometry.shape[1:]))
    canvas.paste(_slice(nodule, context, whole, side), (MARGIN, MARGIN))
    left = side + 2 * MARGIN
    small = WIDTH - left - MARGIN
    canvas.paste(_slice(nodule, context, _around(nodule, context), small), (left, MARGIN))
    top = MARGIN * 2 + small
    top = _write(draw, (left, top), f"Nodule {nodule.id} of {len(report.nodules)}", TITLE, ORANGE)
    for words in _lines(nodule):
        top = _write(draw, (left, top), words, TEXT, WHITE, width=small)
    _write(draw, (left, top + 4), f"{report.software}. {NOT_A_DEVICE}", SMALL, GREY, width=small)
    return canvas


def _summary(report: Report, context: Context, page: int, pages: int) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BLACK)
    draw = ImageDraw.Draw(canvas)
    count = len(report.nodules)
    found = f"{count} finding{'s' * (count != 1)}" if count else "No nodule found"
    title = f"Lung nodules: {found}" + (f" (page {page + 1} of {pages})" if pages > 1 else "")
    top, wide = MARGIN, WIDTH - 2 * MARGIN
    if report.coverage.headline:
        top = _write(draw, (MARGIN, top), f"{report.coverage.headline}.", TEXT, ORANGE, width=wide)
    top = _write(draw, (MARGIN, top), title, TITLE, ORANGE)
    for words in _categories(report.guidelines.examination if report.guidelines is not None else ()):
        top = _write(draw, (MARGIN, top), words, TEXT, WHITE, width=wide)
    lungs = f"Lungs {report.lungs.left_ml:.0f} ml left, {report.lungs.right_ml:.0f} ml right."
    top = _write(draw, (MARGIN, top), f"{report.software}, {context.made:%Y-%m-%d %H:%M}. {lungs}", SMALL, GREY) + 8
    for nodule in report.nodules[page * ROWS : (page + 1) * ROWS]:
        canvas.paste(_slice(nodule, context, _around(nodule, context), THUMBNAIL), (MARGIN, top))
        beside = MARGIN + THUMBNAIL + 16
        _write(draw, (beside, top + 4), f"{nodule.id}   {'; '.join(_lines(nodule)[:2])}", TEXT, WHITE)
        _write(draw, (beside, top + 36), "; ".join(_lines(nodule)[2:]), SMALL, GREY)
        top += THUMBNAIL + 8
    foot = [f"Malignancy estimate: {MALIGNANCY_ESTIMATE}", NOT_A_DEVICE]
    if report.warnings:
        foot.insert(0, f"Note: {report.warnings[0]}" + (" More in the report." if len(report.warnings) > 1 else ""))
    for words in foot:
        top = _write(draw, (MARGIN, top), words, SMALL, GREY, width=wide)
    return canvas


def _categories(results: Sequence[Result]) -> Iterator[str]:
    """The category by each guideline, or those that it can be, without the recommendation."""
    for result in results:
        if result.possible:
            yield f"{result.guideline}: {either(result.possible)}"


def _lines(nodule: Nodule) -> list[str]:
    """What is said of a nodule: size and kind, place, volume and density, estimate."""
    m = nodule.measurements
    axes = f"{m.long_axis_mm:.1f} x {m.short_axis_mm:.1f} mm"
    place = f"{nodule.position.side} lung"
    if nodule.position.lobe_estimate != "unknown":
        place = f"{nodule.position.lobe_estimate} (estimated)"
    out = [
        f"{nodule.texture}, {m.mean_diameter_mm:.1f} mm ({axes})",
        place,
        f"volume {m.volume_mm3:.0f} mm3, mean {m.mean_hu:.0f} HU",
    ]
    if nodule.risk is not None:
        low, high = nodule.risk.interval
        hedge = "" if nodule.risk.trusted else ", not to be relied on"
        out.append(
            f"malignancy estimate {_percent(nodule.risk.probability)} ({100 * low:.0f} to {_percent(high)}){hedge}"
        )
    if nodule.position.instance_number is not None:
        out.append(f"image {nodule.position.instance_number}")
    return out


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _around(nodule: Nodule, context: Context) -> Box:
    """A square of the central slice round a nodule."""
    _, row, column = context.ct.geometry.spacing_zyx
    (_, y, x), z = nodule.box.centre_zyx, nodule.position.central_slice
    extent = max(nodule.box.shape[1] * row, nodule.box.shape[2] * column)
    side = max(CLOSEUP_MM, 1.4 * extent)
    return Box.around((z, y, x), (1, round(side / row), round(side / column)))


def _slice(nodule: Nodule, context: Context, box: Box, side: int) -> Image.Image:
    """A part of one slice in a square of ``side`` pixels, grey, with the outline of a nodule."""
    low, high = WINDOW_HU
    hu = context.ct.crop(box).hu[0].astype(np.float32)
    grey = Image.fromarray(np.clip((hu - low) * (255 / (high - low)), 0, 255).astype(np.uint8))
    _, row, column = context.ct.geometry.spacing_zyx
    scale = side / max(box.shape[1] * row, box.shape[2] * column)
    size = (max(1, round(box.shape[2] * column * scale)), max(1, round(box.shape[1] * row * scale)))
    picture = Image.new("RGB", (side, side), BLACK)
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    picture.paste(grey.resize(size, Image.Resampling.BICUBIC).convert("RGB"), corner)
    assert nodule.mask is not None, "the report is of an analysis"
    start = np.subtract(box.start, nodule.box.start)
    mask = crop_array(nodule.mask, Box.between(start, start + box.shape))[0]
    draw = ImageDraw.Draw(picture)
    for curve in contours(mask.astype(np.float32)):
        points = curve * (size[0] / box.shape[2], size[1] / box.shape[1]) + corner
        draw.line([*map(tuple, points), tuple(points[0])], fill=ORANGE, width=1 if side < 200 else 2)
    return picture


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    words: str,
    size: int,
    colour: tuple[int, int, int],
    width: int | None = None,
) -> int:
    """Write a text, in lines no wider than ``width`` pixels; returns where the next may begin."""
    font = ImageFont.load_default(size)
    left, top = at
    lines = [words]
    if width is not None:
        letters = max(8, int(len(words) * width / max(1.0, draw.textlength(words, font=font))))
        lines = textwrap.wrap(words, letters)
    for line in lines:
        draw.text((left, top), line, fill=colour, font=font)
        top += round(size * LINE)
    return top


def _letters(context: Context) -> tuple[str, str]:
    """Towards which side of the patient columns and rows rise."""
    across, down = np.array(context.study.cosines).reshape(2, 3)
    return _letter(across), _letter(down)


def _letter(direction: NDArray[np.float64]) -> str:
    """All sides that a direction leads to, the foremost first, as "LA" (PS3.3, C.7.6.1.1.1)."""
    order = np.argsort(-np.abs(direction), kind="stable").tolist()
    return "".join(("RL", "AP", "FH")[k][int(direction[k] > 0)] for k in order if abs(direction[k]) > LEAST_SHARE)
