"""What scans a place holds, and reading one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nodulens.core.text import printable
from nodulens.core.volume import Volume
from nodulens.errors import InputError, NoSeries, SeveralSeries, UnreadableFile, input_errors
from nodulens.io import images
from nodulens.io.alignment import orientation
from nodulens.io.deidentify import Identity, released, shown_modality
from nodulens.io.dicom import DicomSeries, Progress, check_scan, find_series, read_series, slice_readers
from nodulens.io.kernels import sharp_kernel
from nodulens.io.places import Place, counted, is_zip, opened_place
from nodulens.io.spacing import Gaps

# Below this a series is a bolus track or a sample of slices rather than a scan of the lungs.
ENOUGH_SLICES = 20


@dataclass(frozen=True)
class SeriesInfo:
    """One scan as its headers tell it.

    Attributes:
        uid: series instance UID; None for formats without.
        format: "dicom", "metaimage", "nifti" or "nrrd".
        description: as the scanner named it.
        modality: "CT", "MR", …; empty where the format does not say.
        slices: number of images stored.
        thickness_mm: nominal slice thickness.
        spacing_zyx: mm between voxel centres; None where the slices make no grid.
        kernel: reconstruction kernel.
        contrast: whether contrast agent was given; None where the header does not say.
        orientation: "axial", "coronal", "sagittal", "oblique", or "" where unknown.
        tilt_deg: gantry tilt.
        problems: why it cannot be read, or what will be put right on reading; empty is well.
        readable: whether reading it can succeed, as far as headers tell.
        recommended: of several, the one to take for nodules.
    """

    uid: str | None
    format: str
    description: str = ""
    modality: str = ""
    slices: int = 0
    thickness_mm: float | None = None
    spacing_zyx: tuple[float, float, float] | None = None
    kernel: str | None = None
    contrast: bool | None = None
    orientation: str = ""
    tilt_deg: float = 0.0
    problems: tuple[str, ...] = ()
    readable: bool = True
    recommended: bool = False


@input_errors()
def list_series(path: str | Path) -> list[SeriesInfo]:
    """Every series in a folder, file or zip, the recommended one first.

    Of DICOM only headers are read; the voxels of MetaImage, NIfTI and NRRD are held to their length, and packed ones to
    their checksum.

    Raises:
        NotFound, UnreadableFile, UnsafeArchive: as :func:`read`.
        NoSeries: nothing in there is an image.
        UnreadableFile, BadGeometry: the path is a MetaImage, NIfTI or NRRD file that is damaged or of impossible
            geometry; in a folder such a file is listed with its problem.
    """
    with opened_place(Path(path)) as place:
        found, others = find_series(place.files)
        infos = [_info(series, place.warnings) for series in found if series.planes]
        volumes = _images(others)
        alone = place.files == (Path(path),)
        infos += [_image_info(file, format, alone) for file, format in volumes]
        if not infos:
            raise _nothing(Path(path), place, found, others)
    return _recommend(infos)


@input_errors()
def read(
    path: str | Path, *, series: str | None = None, gaps: Gaps = "error", progress: Progress | None = None
) -> Volume:
    """Read one CT in Hounsfield units with its place in the patient.

    DICOM (a folder, nested folders, a multi-frame file, a zip), MetaImage, NIfTI and NRRD are distinguished
    by content. What the scanner did not see is air (−1000 HU); z rises along the slice normal.

    Args:
        path: a file or folder.
        series: UID of the series to read, or a beginning or an end of it that only one has.
        gaps: "error", or "interpolate" to fill missing slices linearly, with a warning.
        progress: called with the number of slices decoded and of all.

    Returns:
        the volume; ``source.warnings`` says what was noticed and put right.

    Raises:
        NotFound: there is no such path.
        UnreadableFile: truncated, damaged, wrong suffix, or no image.
        UnsafeArchive: a zip that would write outside its folder or unpack too large.
        NoSeries: no CT in there, or none of the chosen UID.
        SeveralSeries: several CT series and no choice made; ``choices`` holds their UIDs.
        NotCT: another modality, or localizers only.
        BadGeometry: gaps, duplicates, mixed or tilted beyond repair; see :mod:`nodulens.io.stack`.
        BadValues: numbers that cannot be HU.
        BadOption: another value of ``gaps``.
    """
    path = Path(path)
    with opened_place(path) as place:
        found, others = find_series(place.files)
        if not found:
            return _read_image(path, place, others, series)
        chosen = _choose(path, place, found, series)
        volume = read_series(chosen, gaps, progress)
    notes = [*volume.source.warnings, *place.warnings]
    if others:
        notes.append(counted("files that are not DICOM were left out", [file.name for file in others]))
    aside = Counter(shown_modality(s.modality) for s in found if s is not chosen)
    if aside and series is None:
        listed = ", ".join(f"{n} {modality}" for modality, n in aside.most_common())
        notes.append(f"Other series in the same place were left out: {listed}.")
    return replace(volume, source=replace(volume.source, warnings=tuple(notes)))


@input_errors()
def read_one_by_one(path: str | Path, *, series: str | None = None) -> tuple[Callable[[], Volume], ...]:
    """The slices of a DICOM CT in a folder, decoded on demand.

    Args:
        path: the folder.
        series: as for :func:`read`.

    Returns:
        Functions in order of position, each of which returns a volume of one slice and raises as :func:`read`.

    Raises:
        as :func:`read`, by the headers alone.
    """
    with opened_place(Path(path)) as place:
        found, others = find_series(place.files)
        if not found:
            raise _nothing(Path(path), place, found, others)
        return slice_readers(_choose(Path(path), place, found, series))


def _images(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """Those files that are MetaImage, NIfTI or NRRD, with their format."""
    kinds = [(file, images.sniff(file)) for file in files]
    return [(file, kind) for file, kind in kinds if kind]


def _read_image(path: Path, place: Place, files: Sequence[Path], series: str | None) -> Volume:
    found = _images(files)
    if not found:
        raise _nothing(path, place, (), files)
    if len(found) > 1:
        names = ", ".join(file.name for file, _ in found[:5])
        raise SeveralSeries(f"{path} holds {len(found)} volumes ({names}); give the path of one of them.")
    if series is not None:
        raise NoSeries(f"{found[0][0].name} has no series UID; leave the choice of series out.")
    volume = images.read_image(*found[0])
    notes = (*volume.source.warnings, *place.warnings)
    return replace(volume, source=replace(volume.source, warnings=notes))


def _nothing(path: Path, place: Place, found: Sequence[DicomSeries], others: Sequence[Path]) -> InputError:
    """The error that says why there is nothing to read."""
    advice = "give a folder of DICOM slices, or a zip, MetaImage, NIfTI or NRRD file."
    if found:
        kinds = ", ".join(sorted({shown_modality(s.modality) for s in found}))
        return NoSeries(f"{path} holds no images, only DICOM of modality {kinds}; {advice}")
    if list(others) == [path]:
        return UnreadableFile(f"{path} is neither DICOM nor MetaImage, NIfTI or NRRD; {advice}")
    archives = [file.name for file in others if is_zip(file)]
    if archives:
        return NoSeries(f"{path} holds no scan but an archive, {archives[0]}; unpack it first.")
    beside = "".join(f" {warning}" for warning in place.warnings)
    return NoSeries(f"{path} holds {len(others) or 'no'} files, none of them a scan; {advice}{beside}")


def _choose(path: Path, place: Place, found: Sequence[DicomSeries], wanted: str | None) -> DicomSeries:
    if wanted is not None:
        hits = [s for s in found if s.uid == wanted] or [
            s for s in found if wanted and (s.uid.startswith(wanted) or s.uid.endswith(wanted))
        ]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise SeveralSeries(_choices(f"{len(hits)} series match {wanted!r}", hits), tuple(s.uid for s in hits))
        raise NoSeries(_choices(f"No series in {path} matches {wanted!r}. There are {len(found)}", found))
    scans = [s for s in found if s.modality == "CT" and any(not plane.aside for plane in s.planes)]
    # Two images or more can be a scan; one next to others is a sample or a reference.
    several = [s for s in scans if len(s.planes) > 1]
    scans = several or scans
    if len(scans) == 1:
        return scans[0]
    if not scans:
        pictured = [s for s in found if s.planes]
        if not pictured:
            raise _nothing(path, place, found, ())
        return pictured[0]  # reading it says what it is
    ranked = _recommend([_info(s) for s in scans])
    message = _choices(f"{path} holds {len(scans)} CT series", scans)
    raise SeveralSeries(message, tuple(info.uid or "" for info in ranked))


def _choices(what: str, found: Sequence[DicomSeries]) -> str:
    lines = []
    shown = {s.uid: released(s.source) for s in found}
    for info in _recommend([_info(s) for s in found]):
        known = shown[info.uid or ""]
        thickness = "thickness unknown" if info.thickness_mm is None else f"{info.thickness_mm:g} mm"
        kernel = f"kernel {known.kernel or 'unknown'}"
        words = [f"{info.slices} slices", thickness, kernel, shown_modality(info.modality), info.orientation]
        words.append(known.description)
        advice = " (recommended)" if info.recommended else ""
        lines.append(f"  {printable(info.uid or '')}  " + ", ".join(word for word in words if word) + advice)
    return f"{printable(what)}; choose one with --series UID (series=… in Python):\n" + "\n".join(lines)


def _info(series: DicomSeries, left_out: Sequence[str] = ()) -> SeriesInfo:
    """What reading a series would say.

    Args:
        series: as its headers tell it.
        left_out: what is beside it and is not read.
    """
    problems: list[str] = []
    readable, spacing, tilt = True, None, 0.0
    try:
        scan = check_scan(series, "error")
        spacing, tilt = scan.stack.geometry.spacing_zyx, scan.stack.tilt_deg
        doubles = sum(len(place) - 1 for place in scan.stack.places)
        problems += [*scan.warnings, *([f"{doubles} images lie where another does."] if doubles else [])]
    except InputError as error:
        readable = False
        problems.append(str(error))
    problems += left_out
    cosines = next((plane.cosines for plane in series.planes if plane.cosines), None)
    source, identity = series.source, Identity.of(series.source.patient)
    return SeriesInfo(
        uid=series.uid,
        format="dicom",
        description="" if identity.occurs_in(source.description) else source.description,
        modality=series.modality,
        slices=len(series.planes),
        thickness_mm=series.source.slice_thickness_mm,
        spacing_zyx=spacing,
        kernel=None if identity.occurs_in(source.kernel or "") else source.kernel,
        contrast=series.source.contrast,
        orientation=orientation(cosines) if cosines else "",
        tilt_deg=round(tilt, 2),
        problems=tuple(problems),
        readable=readable,
    )


def _image_info(path: Path, format: str, alone: bool) -> SeriesInfo:
    """The info of a file; what is wrong with one among others is listed, with one alone raised."""
    try:
        header = images.check_image(path, format)
    except InputError as error:
        if alone:
            raise
        return SeriesInfo(None, format, description=path.name, problems=(str(error),), readable=False)
    geometry = header.geometry
    return SeriesInfo(
        uid=None,
        format=format,
        description=path.name,
        slices=geometry.shape[0],
        spacing_zyx=geometry.spacing_zyx,
        orientation=orientation(np.r_[geometry.direction[:, 2], geometry.direction[:, 1]]),
        problems=header.warnings,
    )


def _recommend(infos: Sequence[SeriesInfo]) -> list[SeriesInfo]:
    """The infos in order of how well they serve, the first marked where it can be read."""

    def rank(info: SeriesInfo) -> tuple[bool, bool, bool, bool, float, int]:
        thickness = info.thickness_mm or (info.spacing_zyx[0] if info.spacing_zyx else 99.0)
        return (
            not info.readable,
            info.orientation != "axial",
            info.slices < ENOUGH_SLICES,
            sharp_kernel(info.kernel),
            thickness,
            -info.slices,
        )

    ranked = sorted(infos, key=rank)
    return [replace(info, recommended=i == 0 and info.readable) for i, info in enumerate(ranked)]
