"""Segment and render the frames of a folder, a video or a camera one by one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from nodulens.core.geometry import Geometry
from nodulens.core.private import check_folder, own_folder
from nodulens.core.volume import Mask, Volume
from nodulens.data.frames import Frame, Hounsfield, Source
from nodulens.errors import BadOption, BadValues, InputError, MissingExtra, UnreadableFile
from nodulens.io.atomic import whole_file
from nodulens.methods.catalogue import RECIPES
from nodulens.methods.method import EVEN, untrained
from nodulens.methods.recipe import changed_in_use
from nodulens.methods.run_record import method_named
from nodulens.ops.intensity import to_unit
from nodulens.presentation.panels import CLASS_COLOURS, YELLOW, Colour
from nodulens.report.pictures import contours
from nodulens.runtime.engine import Array, Model, load_model
from nodulens.stages.classical import classic_steps
from nodulens.stages.findings import Finding
from nodulens.stages.fp_reduction import kept
from nodulens.stages.slices import LEAST_MM, NODULE, Field, find_regions, segment_slices

SCHEMA = "nodulens-stream/1"
FILM = ".mp4"
STEPS, MASKS = "steps", "masks"
THICK_MM = LEAST_MM * 2 / 3
"""A disc of this thickness has the volume of a ball of its diameter, so specks are recognised by area."""
SMALL_PX = 512
"""Least size of displayed frames, which are enlarged by an integer factor."""


@dataclass
class SliceSegmenter:
    """The networks of a run that work on single slices.

    Attributes:
        segmenter: segments a slice.
        filter: keeps or rejects regions; None where the recipe has none.
        threshold: least score of a region.
        seconds: that the networks have taken.
    """

    segmenter: Model
    filter: Model | None
    threshold: float
    seconds: float = field(default=0.0, init=False)

    def segment(self, hu: Hounsfield, pixel_mm: tuple[float, float]) -> tuple[list[Finding], Mask]:
        """Regions of a frame (y, x), the most certain first, and all that the segmenter labels, both on (1, y, x)."""
        volume = Volume(hu[None], Geometry.axial((1, *hu.shape), (THICK_MM, *pixel_mm)))
        settings = self.segmenter.card.settings
        labels = segment_slices(volume, self._timed(self.segmenter), Field.of(settings))
        found = find_regions(labels, None)
        if self.filter is not None:
            return kept(volume, found, self._timed(self.filter), self.threshold), labels.labels
        return [f for f in found if f.score >= self.threshold], labels.labels

    def _timed(self, model: Model) -> Model:
        def run(batch: Array) -> tuple[Array, ...]:
            start = time.perf_counter()
            try:
                return model.run(batch)
            finally:
                self.seconds += time.perf_counter() - start

        return replace(model, run=run)


@dataclass(frozen=True)
class FrameOutput:
    """Destination and rendering of frames.

    Attributes:
        path: folder for a PNG a frame, or an MP4 file; None: nothing is written.
        window: HU of black and white.
        steps: also write the classic steps of each frame, side by side, into ``steps`` of the folder.
        masks: also write the nodules of each frame as a white mask, 255 on 0, of its own size, into ``masks``.
        fps: write frames per second so far onto each frame.
        identify: name pictures as those of the source, and say which file cannot be read and why. Else frames have
            numbers alone: names of files often hold the patient's.
    """

    path: Path | None
    window: tuple[float, float]
    steps: bool = False
    masks: bool = False
    fps: bool = False
    identify: bool = False

    def check(self, source: Path) -> None:
        """Refuse what cannot be written, before the work.

        Raises:
            BadOption: a file where a folder should be, frames among their own source, or steps or masks without a
                folder.
            MissingExtra: films need a package that is not installed.
        """
        output = self.path
        film = output is not None and output.suffix.lower() == FILM
        for word in (STEPS,) * self.steps + (MASKS,) * self.masks:
            if output is None or film:
                raise BadOption(f"--{word} writes pictures: name a folder with --output.")
        if output is None:
            return
        if film:
            try:
                import cv2  # noqa: F401
            except ImportError as error:
                raise MissingExtra("video", "opencv-python-headless") from error
            if output.is_dir() or output.resolve() == source.resolve():
                raise BadOption(f"{output} is {'a folder' if output.is_dir() else 'the source'}; name another film.")
            return
        check_folder(output)
        if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
            raise BadOption(
                f"{output} is inside the source: rendered frames would be read as slices. Name another folder."
            )


@dataclass
class StreamStatistics:
    """Frames, seconds and regions of a stream so far.

    Attributes:
        shown: seconds from the start of the stream to when each frame was shown, by the clock on the wall.
        work: seconds of that frame's own, from reading to writing: without the wait for a camera, the decoding of a
            video, and what was skipped.
        elapsed: seconds that have passed, up to the end of the stream.
        left_out: what was wrong with frames that could not be read.
        regions, with_regions: regions shown, and frames that show one.
        stopped: whether a person ended it.
    """

    shown: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    left_out: list[str] = field(default_factory=list)
    regions: int = 0
    with_regions: int = 0
    stopped: bool = False

    @property
    def pace(self) -> float:
        """Frames shown a second, by the clock on the wall; 0 before the first."""
        return len(self.shown) / self.elapsed if self.shown else 0.0

    def count(self, found: Sequence[Finding], start: float, now: float) -> None:
        """Count a frame that was shown, from ``start`` to ``now`` in seconds of the stream."""
        self.regions += len(found)
        self.with_regions += bool(found)
        self.work.append(now - start)
        self.elapsed = now
        self.shown.append(now)


def load_segmenter(name: str | Path, settings: Sequence[str] = (), threads: int | None = None) -> SliceSegmenter:
    """The networks of a recipe or a run that segment single slices.

    Raises:
        BadOption: the recipe segments no slices; the message lists those that do. Or there is no such recipe, or
            something else than the threshold is set.
        MissingWeights, CorruptWeights: it is not trained yet, or its networks are damaged.
    """
    recipe, folder = method_named(str(name))
    recipe = changed_in_use(recipe, settings, ("threshold",))
    if recipe.segmenter is None:
        able = ", ".join(r.name for r in RECIPES.values() if r.segmenter)
        raise BadOption(f"The recipe {recipe.name!r} segments no single slices; {able} do.")
    parts = [part for part in ("segmenter", "filter") if part in recipe.networks]
    if folder is None:
        raise untrained(recipe, parts)
    models = {part: load_model(part, threads, folder) for part in parts}
    for caveat in recipe.caveats:
        warnings.warn(caveat, stacklevel=2)
    threshold = EVEN if recipe.threshold is None else recipe.threshold
    return SliceSegmenter(models["segmenter"], models.get("filter"), threshold)


def stream(
    source: Source,
    segmenter: SliceSegmenter,
    output: FrameOutput,
    *,
    every: int = 1,
    show: Callable[[StreamStatistics], None] = lambda statistics: None,
) -> StreamStatistics:
    """Segment frame after frame until the end or Ctrl-C; output written until then is kept.

    A frame that cannot be read is skipped.

    Args:
        source: see :func:`nodulens.data.frames.open_source`.
        segmenter: see :func:`load_segmenter`.
        output: where frames go.
        every: segment one frame in so many.
        show: called after every frame.

    Raises:
        UnreadableFile: not one frame can be read.
        BadValues: frames of a film differ in size.
    """
    statistics, begin = StreamStatistics(), time.perf_counter()
    with _sink(output.path, source.pace / every) as write:
        try:
            for frame in islice(source.frames, 0, None, every):
                start = time.perf_counter()
                try:
                    hu, pixel_mm = frame.read()
                except InputError as error:
                    statistics.left_out.append(str(error) if output.identify else _unnamed(frame, error))
                    statistics.elapsed = time.perf_counter() - begin
                    show(statistics)
                    continue
                found, labels = segmenter.segment(hu, pixel_mm)
                grey = to_unit(hu, output.window)
                name = frame.name if output.identify and frame.name else f"{frame.number:05d}"
                pace = (len(statistics.shown) + 1) / (time.perf_counter() - begin)
                write(name, overlaid(grey, found, labels, f"{pace:.1f} fps" if output.fps else ""))
                if output.masks:
                    write(f"{MASKS}/{name}", Image.fromarray(white_mask(found, grey.shape)))
                if output.steps:
                    strip = np.concatenate(list(classic_steps(grey).values()), axis=1)
                    write(f"{STEPS}/{name}", _picture(strip))
                statistics.count(found, start - begin, time.perf_counter() - begin)
                show(statistics)
        except KeyboardInterrupt:
            if not statistics.shown:
                raise
            statistics.stopped = True
        statistics.elapsed = time.perf_counter() - begin
        if not statistics.shown:
            raise UnreadableFile(f"Not one frame can be read. {' '.join(statistics.left_out[:1])}".strip())
    return statistics


def _unnamed(frame: Frame, error: InputError) -> str:
    """What is said of a frame that cannot be read: nothing of its file."""
    return f"Frame {frame.number} cannot be read ({type(error).__name__}); --identify names its file and says why."


def summary(statistics: StreamStatistics, segmenter: SliceSegmenter, window: tuple[float, float]) -> dict[str, Any]:
    """The statistics for JSON: of ``total_s`` passed on the wall's clock, ``work_s`` went into the frames shown, and
    ``model_s`` of that into the networks."""
    return {
        "schema": SCHEMA,
        "frames": len(statistics.shown),
        "fps_mean": round(statistics.pace, 2),
        "fps_median": round(1 / float(np.median(np.diff(statistics.shown, prepend=0.0))), 2),
        "model_s": round(segmenter.seconds, 3),
        "work_s": round(sum(statistics.work), 3),
        "total_s": round(statistics.elapsed, 3),
        "regions": statistics.regions,
        "frames_with_regions": statistics.with_regions,
        "window_hu": list(window),
        "left_out": statistics.left_out,
        "stopped": statistics.stopped,
    }


# ---------------------------------------------------------------- pictures


def overlaid(grey: NDArray[np.float32], found: Sequence[Finding], labels: Mask, words: str = "") -> Image.Image:
    """Render a frame with the network's masks, each region's outline, box and score, and words in its corner.

    Classes have the colours of :data:`nodulens.presentation.panels.CLASS_COLOURS`, others are yellow.

    Args:
        grey: (y, x) 0…1.
        found: on (1, y, x).
        labels: the network's masks, (1, y, x).
    """
    scale = max(1, SMALL_PX // max(grey.shape))
    picture = _picture(grey, scale).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for name, mask in _around(labels):
        _outline(draw, mask, (0, 0), scale, CLASS_COLOURS.get(name, YELLOW))
    colour = CLASS_COLOURS[NODULE]
    for region in found:
        _, y0, x0 = region.box.start
        _, y1, x1 = region.box.stop
        _outline(draw, region.mask[0], (y0, x0), scale, colour)
        corners = (scale * x0 - 2, scale * y0 - 2, scale * x1 + 1, scale * y1 + 1)
        draw.rectangle(corners, outline=colour)
        draw.text((corners[0], max(0, corners[1] - 12)), f"{region.score:.2f}", fill=colour)
    draw.text((4, 4), words, fill=YELLOW)
    return picture


def white_mask(found: Sequence[Finding], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The regions of a frame (y, x): 255 in them, 0 elsewhere; what a folder of pictures takes as masks."""
    mask = np.zeros(shape, dtype=np.uint8)
    for region in found:
        mask[region.box.slices[1:]][region.mask[0]] = 255
    return mask


def _around(masks: Mask) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and (y, x) of every class but the nodule. A nodule belongs to the one that is nearest: to its lung."""
    labels, nodule = masks.labels[0], masks.of(NODULE)[0]
    rest = np.where(nodule, 0, labels)
    if nodule.any() and rest.any():
        nearest = ndimage.distance_transform_edt(rest == 0, return_distances=False, return_indices=True)
        rest = np.where(nodule, rest[tuple(nearest)], rest)
    yield from ((name, rest == value) for value, name in masks.names.items() if name != NODULE)


def _outline(
    draw: ImageDraw.ImageDraw,
    mask: NDArray[np.bool_],
    corner: tuple[int, int],
    scale: int,
    colour: Colour,
) -> None:
    for curve in contours(mask.astype(np.float32)):
        points = (curve + corner[::-1]) * scale - 0.5
        draw.line([*map(tuple, points.tolist()), tuple(points[0].tolist())], fill=colour)


def _picture(grey: NDArray[np.float32], scale: int = 1) -> Image.Image:
    picture = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.BILINEAR)


# ---------------------------------------------------------------- where pictures go


@contextmanager
def _sink(output: Path | None, pace: float) -> Iterator[Callable[[str, Image.Image], None]]:
    """A function that writes a named picture."""
    if output is None:
        yield lambda name, picture: None
    elif output.suffix.lower() != FILM:
        with own_folder(output) as staging:
            yield partial(_save, output, staging)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as part, _film(part, pace) as write:
            yield write


def _save(folder: Path, staging: Path, name: str, picture: Image.Image) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, staging) as part:
        picture.save(part, compress_level=1)  # a stream has little time, and disks have room


@contextmanager
def _film(path: Path, pace: float) -> Iterator[Callable[[str, Image.Image], None]]:
    import cv2

    made: list[tuple[Any, tuple[int, int]]] = []

    def write(name: str, picture: Image.Image) -> None:
        if not made:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), pace, picture.size)
            if not writer.isOpened():
                raise BadOption(f"OpenCV on this machine writes no {FILM} films here; name a folder for pictures.")
            made.append((writer, picture.size))
        writer, size = made[0]
        if picture.size != size:
            raise BadValues(f"{name} is {picture.size} pixels, the film {size}; name a folder for pictures instead.")
        writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))

    try:
        yield write
    finally:
        for writer, _ in made:
            writer.release()
