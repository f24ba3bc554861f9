"""How well examinations are compared, on scans whose changes are exactly known.

    python benchmarks/followup.py registration --data ../shared/data
    python benchmarks/followup.py pairs --data ../shared/data
    python benchmarks/followup.py repeatability --data ../shared/data

The scans are the lungs without nodules of the training data, and a copy of each that is bent as by another breath,
turned, and given another kernel and dose. Nodules are rendered into both, at places that belong together, grown,
shrunk, new and gone by known factors: their volume is not that of the bent copy but the renderer's. What is printed is
in docs/followup.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import ndimage

from nodulens.core.nodule import Box
from nodulens.core.volume import AIR_HU, Mask, Volume
from nodulens.data.follow_up import breathing
from nodulens.data.material import Background, Stacks
from nodulens.data.render import Rendered, render, render_many
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.errors import BadOption, BadPrompt
from nodulens.followup.compare import compare
from nodulens.followup.exam import Exam
from nodulens.followup.record import Track
from nodulens.followup.registration import Lungs, register
from nodulens.followup.repeatability import LEAST, SURE
from nodulens.methods.load import load_method
from nodulens.methods.method import Method
from nodulens.ops.deform import Deformation
from nodulens.ops.resample import resample_array
from nodulens.pipeline import analyze
from nodulens.stages.lungs import segment_lungs
from nodulens.stages.measure import measure
from nodulens.stages.segment import ROOM, rough_cube

app = typer.Typer(add_completion=False, help=__doc__)
Data = Annotated[Path, typer.Option(help="Folder with lidc/ and background/.")]
Seed = Annotated[int, typer.Option(help="Of what is random.")]
Scans = Annotated[list[str] | None, typer.Option(help="Patient of a background; default: each. Repeatable.")]
DATA = Path("../shared/data")
FACTORS = (1.0, 1.0, 1.0, 1.0, 1.5, 2.0, 2.5, 0.6, None, None)
"""Volume over that before, of the nodules of a pair of scans; None: gone. As many new ones come."""
NEW = 2
SIZES_MM = (5.0, 14.0)
TEXTURE = 4.5
"""Median rating from which a nodule is solid."""


# ---- Scans


def later(volume: Volume, to_before: Deformation, rng: np.random.Generator) -> Volume:
    """The copy: bent, of a softer kernel, with more noise."""
    hu = to_before.warped(volume.hu, volume.geometry, volume.geometry, fill=AIR_HU)
    soft = ndimage.gaussian_filter(hu, (0, 0.5, 0.5))
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0, 0.7, 0.7))
    hu = soft + grain * (rng.uniform(10, 30) / float(grain.std()))
    return replace(volume, hu=np.rint(hu).clip(-1024, 3071).astype(np.int16))


def sliced(volume: Volume, slice_mm: float) -> Volume:
    """The scan in slices of another thickness: each the mean over its own."""
    z, y, x = volume.geometry.spacing_zyx
    if abs(z - slice_mm) < 0.05:
        return volume
    grid = volume.geometry.respaced((slice_mm, y, x))
    hu = np.rint(resample_array(volume.hu, volume.geometry, grid, fill=AIR_HU)).astype(np.int16)
    return Volume(hu, grid, replace(volume.source, slice_thickness_mm=slice_mm))


def bent(volume: Volume, seed: int) -> Deformation:
    """A breath for a scan."""
    low, high = (volume.geometry.to_lps(end) for end in ((0, 0, 0), np.asarray(volume.geometry.shape) - 1))
    return breathing((np.minimum(low, high).tolist(), np.maximum(low, high).tolist()), seed=seed)


# ---- Registration


@app.command()
def registration(data: Data = DATA, seed: Seed = 0, slice_mm: float = 2.5, scan: Scans = None) -> None:
    """The error of the map, against the known one; what two patients and half a scan give."""
    names = tuple(scan or Background.PATIENTS)
    scans = {}
    for name in names:
        volume = sliced(Background.volume(data, name), slice_mm)
        scans[name] = Lungs(volume, segment_lungs(volume))
    print("| scans | lungs' Dice | overlap | forks found again | residual at forks, mm (95 %) | true error, mm: "
          "median, 95 %, largest | seconds (CPU) |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, name in enumerate(names):
        to_before = bent(scans[name].volume, seed + number)
        copy = later(scans[name].volume, to_before, np.random.default_rng((seed, number)))
        moved = Lungs(copy, segment_lungs(copy))
        _line(f"{name}, bent", moved, scans[name], to_before)
        z = copy.geometry.shape[0] // 2
        upper = Box((z, 0, 0), copy.geometry.shape)
        half = copy.crop(upper)
        _line(f"{name}, bent, upper half", Lungs(half, segment_lungs(half)), scans[name], to_before)
        other = names[(number + 1) % len(names)]
        if other != name:
            _line(f"{name} and {other}", scans[name], scans[other], None)


def _line(words: str, current: Lungs, prior: Lungs, truth: Deformation | None) -> None:
    start = time.perf_counter(), time.process_time()
    found = register(current, prior)
    took = time.perf_counter() - start[0], time.process_time() - start[1]
    quality, error = found.quality, "–"
    if truth is not None:
        index = np.argwhere(current.lungs.labels[::3, ::6, ::6] > 0) * (3, 6, 6)
        points = current.volume.geometry.to_lps(index)
        away = np.linalg.norm(found.to_prior.at(points) - truth.at(points), axis=1)
        error = ", ".join(f"{v:.1f}" for v in (*np.percentile(away, (50, 95)), away.max()))
    residual = "–"
    if quality.residual_mm is not None:
        residual = f"{quality.residual_mm:.1f} ({quality.residual_p95_mm:.1f})"
    print(f"| {words} | {quality.dice:.3f} | {quality.overlap:.2f} | {quality.found:.2f} of {quality.forks} "
          f"| {residual} | {error} | {took[0]:.0f} ({took[1]:.0f}) |", flush=True)  # fmt: skip


# ---- Pairs


@dataclass(frozen=True)
class Known:
    """A nodule of a pair of scans.

    Attributes:
        before, after: what was rendered; None where it is not there.
        factor: volume after over before; None of one that is new or gone.
    """

    before: Rendered | None
    after: Rendered | None
    factor: float | None

    @property
    def diameter_mm(self) -> float:
        """The larger one."""
        return max(one.shape.diameter_mm for one in (self.before, self.after) if one is not None)

    @property
    def solid(self) -> bool:
        one = self.before or self.after
        assert one is not None
        return float(one.shape.ratings.get("texture", 5.0)) >= TEXTURE


@app.command()
def pairs(data: Data = DATA, seed: Seed = 0, slice_mm: float = 1.0, scan: Scans = None) -> None:
    """Pairs, volumes and trends of nodules that changed by known factors, from the scans to the comparison."""
    stacks = Stacks(data)
    shapes = [
        shape
        for n, shape in stack_shapes(stacks).items()
        if stacks.readers(n) >= 2 and SIZES_MM[0] <= shape.diameter_mm <= SIZES_MM[1]
    ]
    method = load_method("default")
    outcomes: list[tuple[Known, Track | None, Track | None]] = []
    extra = missed = 0
    for number, name in enumerate(scan or Background.PATIENTS):
        rng = np.random.default_rng((seed, number))
        base = Background.volume(data, name)
        before, after, known = scene(base, shapes, rng, seed=seed + number)
        exams = []
        for volume, day in ((sliced(before, slice_mm), 0.0), (sliced(after, slice_mm), 365.0)):
            exams.append(Exam(volume, analyze(volume, method=method), day))
        start = time.perf_counter(), time.process_time()
        found = compare(exams, method).comparison
        took = f"{time.perf_counter() - start[0]:.0f} s ({time.process_time() - start[1]:.0f} s CPU)"
        print(f"{name}: {len(known)} nodules, {len(found.tracks)} tracks, {found.registrations[0]}, {took}", flush=True)
        used = set()
        for one in known:
            sides = _track(found.tracks, 0, one.before), _track(found.tracks, 1, one.after)
            outcomes.append((one, *sides))
            used |= {track.id for track in sides if track is not None}
        extra += len([track for track in found.tracks if track.id not in used])
        missed += sum(all(track is None for track in row[1:]) for row in outcomes[-len(known) :])
    for line in summary(outcomes):
        print(line)
    print(f"{extra} tracks besides, of marks that are no rendered nodule; {missed} nodules in no track.")


def scene(
    base: Volume, shapes: Sequence[Shape], rng: np.random.Generator, *, seed: int
) -> tuple[Volume, Volume, list[Known]]:
    """A scan and its follow-up, with nodules."""
    to_before = bent(base, seed)
    copy = later(base, to_before, rng)
    lungs = segment_lungs(base)
    moved = Mask(
        to_before.warped(lungs.labels, base.geometry, base.geometry, order=0, fill=0).astype(np.uint8),
        base.geometry,
        lungs.names,
    )
    count = len(FACTORS) + NEW
    chosen = [shapes[i].turned(rng) for i in rng.choice(len(shapes), count, replace=False)]
    placed = render_many(base, lungs, chosen, seed=int(rng.integers(2**31)), juxtapleural=0.1)
    hu, known = base.hu.copy(), []
    for n, (factor, one) in enumerate(zip((*FACTORS, *(None,) * NEW), placed.nodules, strict=True)):
        gone, new = factor is None and n < len(FACTORS), n >= len(FACTORS)
        after = None
        if not gone:
            grown = float(np.cbrt(factor or 1.0))
            z, y, x = one.shape.spacing_zyx
            shape = replace(one.shape, spacing_zyx=(z * grown, y * grown, x * grown))
            x, y, z = (float(v) for v in to_before.inverse_at(one.place))
            # the same appearance at both times: what ratings leave open follows from the seed
            after = render(copy, shape, (x, y, z), seed=seed + n, lungs=moved)
            copied = copy.hu.copy()
            copied[after.box.slices] = after.piece.hu
            copy = replace(copy, hu=copied)
        if new:
            known.append(Known(None, after, None))
            continue
        again = render(replace(base, hu=hu), one.shape, one.place, seed=seed + n, lungs=lungs)
        hu[again.box.slices] = again.piece.hu
        known.append(Known(again, after, factor))
    return replace(base, hu=hu), copy, known


def _track(tracks: Sequence[Track], exam: int, one: Rendered | None) -> Track | None:
    """The track that has a rendered nodule in an examination; None where none has."""
    if one is None:
        return None
    near = [
        (float(np.linalg.norm(np.subtract(t.sightings[exam].place_lps, one.place))), t)
        for t in tracks
        if t.sightings[exam].present
    ]
    distance, track = min(near, key=lambda row: row[0], default=(math.inf, None))
    return track if distance <= max(3.0, one.shape.diameter_mm / 2) else None


def summary(outcomes: Sequence[tuple[Known, Track | None, Track | None]]) -> Iterator[str]:
    """Lines of figures."""
    both = [row for row in outcomes if row[0].factor is not None]
    seen = [(k, a, b) for k, a, b in both if a is not None or b is not None]
    right = [(k, a) for k, a, b in seen if a is not None and a is b]
    yield f"Pairs right: {len(right)} of {len(seen)} nodules that are in a track, of {len(both)} in both scans."
    for words, chosen in (
        ("solid, 6 mm or more", [r for r in right if r[0].solid and r[0].diameter_mm >= 6]),
        ("others", [r for r in right if not (r[0].solid and r[0].diameter_mm >= 6)]),
    ):
        error = np.array([(1 + a.change.volume_share) / (k.factor or 1) - 1 for k, a in chosen if a.change is not None])
        if len(error):
            shares = [float((np.abs(error) <= limit).mean()) for limit in (0.15, 0.25)]
            yield (
                f"Ratio of volumes, {words}: median error {100 * np.median(np.abs(error)):.0f} %, within 15 % in "
                f"{100 * shares[0]:.0f} %, within 25 % in {100 * shares[1]:.0f} %, "
                f"bias {100 * np.median(error):+.0f} % (n = {len(error)})."
            )
    still = [a for k, a in right if k.factor == 1.0 and a.change is not None]
    wrong = [a for a in still if a.status == "growing"]
    large = [a for a in still if a.change is not None and a.change.volume_share > 0.25]
    yield f"Unchanged: {len(wrong)} of {len(still)} called growing; {len(large)} measured over 25 % larger."
    grown = [a for k, a in right if (k.factor or 1.0) >= 1.5]
    yield f"Grown by a half or more: {sum(a.status == 'growing' for a in grown)} of {len(grown)} called growing."
    gone = [a for k, a, _ in outcomes if k.after is None and a is not None]
    new = [b for k, _, b in outcomes if k.before is None and b is not None]
    yield f"Gone, of those found before: {sum(a.status == 'resolved' for a in gone)} of {len(gone)} called resolved."
    yield f"New, of those found after: {sum(b.status == 'new' for b in new)} of {len(new)} called new."


# ---- Repeatability


@app.command()
def repeatability(data: Data = DATA, seed: Seed = 0, each: int = 12, repeats: int = 4) -> None:
    """The spread of the volumes of unchanged nodules: other grids, kernels, doses and prompts."""
    stacks = Stacks(data)
    every = [s for n, s in stack_shapes(stacks).items() if stacks.readers(n) >= 2 and s.ratings["texture"] >= TEXTURE]
    method = load_method("default")
    base = Background.volume(data, Background.PATIENTS[0])
    lungs = segment_lungs(base)
    print("| diameter | nodules | slices | spread of ln volume | pairs of measurements | beyond the interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for low, high in ((3.5, 5.0), (5.0, 8.0), (8.0, 12.0), (12.0, 20.0)):
        rng = np.random.default_rng((seed, int(low)))
        shapes = [s for s in every if low <= s.diameter_mm < high]
        cells: dict[float, list[float]] = {1.0: [], 2.5: []}
        nodules = 0
        for _ in range(each):
            shape = shapes[int(rng.integers(len(shapes)))].turned(rng)
            try:
                made = render_many(base, lungs, [shape], seed=int(rng.integers(2**31)), juxtapleural=0.1)
            except BadOption:
                continue
            nodules += 1
            (nodule,) = made.nodules
            for slice_mm, into in cells.items():
                found = [_volume(made.volume, lungs, nodule, slice_mm, method, rng) for _ in range(repeats)]
                logs = [math.log(v) for v in found if v is not None]
                into += [abs(a - b) for a, b in combinations(logs, 2)]
        for slice_mm, apart in cells.items():
            # a leak into a vessel or the wall is no spread: the median is not moved by it, and it is counted
            spread = float(np.median(apart)) / (0.6745 * math.sqrt(2))
            beyond = float(np.mean(np.array(apart) > SURE * math.sqrt(2) * max(spread, LEAST)))
            print(f"| {low:g} to {high:g} mm | {nodules} | {slice_mm:g} mm | {spread:.3f} | {len(apart)} "
                  f"| {100 * beyond:.0f} % |", flush=True)  # fmt: skip


def _volume(
    volume: Volume, lungs: Mask, made: Rendered, slice_mm: float, method: Method, rng: np.random.Generator
) -> float | None:
    """The measured volume of one nodule on a scan of its own: another grid, kernel, dose and prompt."""
    place, diameter = made.place, made.shape.diameter_mm
    index = np.rint(volume.geometry.to_index(place))
    side = np.ceil(np.array([36.0, 36.0, 36.0]) / volume.geometry.spacing_zyx).astype(int) * 2 + 1
    box = Box.around(index, side).clipped(volume.geometry.shape)
    near = volume.crop(box)
    _, y, x = near.geometry.spacing_zyx
    scale = rng.uniform(0.9, 1.15)
    grid = near.geometry.respaced((slice_mm, y * scale, x * scale))
    shift = grid.to_lps(rng.uniform(0, 1, 3)) - np.asarray(grid.origin_lps)
    a, b, c = (float(v) for v in np.asarray(grid.origin_lps) + shift)
    grid = replace(grid, origin_lps=(a, b, c))
    hu: NDArray[np.float32] = resample_array(near.hu, near.geometry, grid, fill=AIR_HU)
    hu = ndimage.gaussian_filter(hu, (0, *(rng.uniform(0, 0.6),) * 2))
    hu = hu + ndimage.gaussian_filter(rng.normal(0, 1, hu.shape), (0, 0.7, 0.7)) * rng.uniform(0, 40)
    scan = Volume(hu.astype(np.float32), grid)
    mask = resample_array(lungs.labels[box.slices], near.geometry, grid, order=0, fill=0)
    x0, y0, z0 = (float(v) for v in np.asarray(place) + rng.normal(0, 0.08 * diameter, 3))
    outline = method.outline(Mask(mask, grid, lungs.names))
    assert outline is not None, "the default prompts its network"
    try:
        found, outlined = outline(scan, rough_cube(scan, (x0, y0, z0), ROOM * diameter * rng.uniform(0.85, 1.15)))
    except BadPrompt:
        return None
    return measure(scan, found, outlined, Mask(mask, grid, lungs.names)).volume_mm3


if __name__ == "__main__":
    app()
