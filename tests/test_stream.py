"""``nodulens stream``: what it draws, in which order, what it leaves out, and that nothing is left half-written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dicom_files
import made_outliners
from conftest import Done, Run, refused
from nodulens import stream as streams
from nodulens.apps.stream import sentence
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask
from nodulens.data.frames import PACE, WIDE_MM, Frame, Source, grey_as_hu, open_source
from nodulens.errors import BadOption, UnreadableFile
from nodulens.io import read, read_one_by_one
from nodulens.methods.catalogue import RESNET_UNET_PATCH_CNN, SE_AUX_UNET
from nodulens.methods.recipe import changed
from nodulens.ops.intensity import to_unit
from nodulens.ops.orient import canonical
from nodulens.presentation.panels import CLASS_COLOURS
from nodulens.stages.findings import Finding
from nodulens.stages.slices import Field
from nodulens.train.tasks.picture_folders import load_pictures

SIDE = 64
DARK, TISSUE, SOME, MUCH = 20, 128, 180, 240
"""Grey values: lung, what is neither, a region that the filter rejects, and one that it keeps."""


@pytest.fixture(scope="module")
def unfiltered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_outliners.write(tmp_path_factory.mktemp("unfiltered"), filter=None)


def slice_of(*regions: int) -> np.ndarray:
    """Tissue, two lungs, and a square of 8 pixels of each grey value in them."""
    image = np.full((SIDE, SIDE), TISSUE, np.uint8)
    image[8:56, 6:28] = image[8:56, 36:58] = DARK
    for number, value in enumerate(regions):
        image[16 + 20 * number : 24 + 20 * number, 12:20] = value
    return image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four slices: nothing, a region kept, one rejected, and both; the first number has two digits."""
    folder = tmp_path / "slices"
    (folder / "p1").mkdir(parents=True)
    shown = {"10": (), "1": (MUCH,), "2": (SOME,), "9": (SOME, MUCH)}
    for name, regions in shown.items():
        Image.fromarray(slice_of(*regions)).save(folder / "p1" / f"{name}.png")
    return folder


def told(done: Done) -> dict:  # type: ignore[type-arg]
    assert done.code == 0, done.err
    return json.loads(done.out)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def painted(picture: Path | Image.Image, name: str) -> np.ndarray:
    """Where the colour of a class is."""
    image = Image.open(picture) if isinstance(picture, Path) else picture
    return (np.asarray(image) == CLASS_COLOURS[name]).all(axis=2)


# ---- what is seen


def test_frames_are_outlined_filtered_and_drawn(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    found = told(run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "out", "--threads", "1", "--json"))
    assert found["schema"] == "nodulens-stream/1"
    assert (found["frames"], found["regions"], found["frames_with_regions"]) == (4, 2, 2)
    assert found["left_out"] == [] and not found["stopped"]
    assert 0 < found["model_s"] < found["work_s"] <= found["total_s"]
    assert found["fps_mean"] == pytest.approx(4 / found["total_s"], rel=0.05)
    assert files(tmp_path / "out") == ["00001.png", "00002.png", "00003.png", "00004.png"]
    scale = streams.SMALL_PX // SIDE
    kept = painted(tmp_path / "out" / "00001.png", "nodule")
    assert kept.shape == (SIDE * scale, SIDE * scale)
    rows, columns = np.nonzero(kept)
    # the box round rows 16 to 24, columns 12 to 20, and its score above it
    assert rows.max() == 24 * scale + 1 and columns.min() == 12 * scale - 2 and columns.max() == 20 * scale + 1
    assert kept[20 * scale, 12 * scale - 1 : 12 * scale + 1].any()  # the outline itself
    assert not painted(tmp_path / "out" / "00002.png", "nodule").any()
    assert not painted(tmp_path / "out" / "00004.png", "nodule").any()
    lungs = painted(tmp_path / "out" / "00004.png", "lung")
    assert lungs[30 * scale, 6 * scale - 2 : 6 * scale + 2].any()


def test_without_a_filter_or_with_another_threshold(
    run: Run, outliners: Path, unfiltered: Path, pictures: Path
) -> None:
    plain = ("stream", pictures, "--threads", "1", "--json", "--recipe")
    assert told(run(*plain, unfiltered))["regions"] == 4
    # a middle of 0.6 less 0.8 at a slope of 200 is certain to be none
    assert told(run(*plain, outliners, "--set", "threshold=0"))["regions"] == 4
    assert told(run(*plain, unfiltered, "--every", "2"))["frames"] == 2


def test_only_the_threshold_is_set_and_what_was_learnt_is_still_said(run: Run, pictures: Path, tmp_path: Path) -> None:
    airways = made_outliners.write(tmp_path / "airways", labels="luna16-mask")
    words = ("stream", pictures, "--recipe", airways, "--threads", "1", "--set")
    done = run(*words, "threshold=0", "--json")
    assert told(done) and "trachea and airways" in done.err
    for setting in ("labels=lidc", "max_findings=1", "segmenter.size=32", "filter.size=32", "prompted=network"):
        refused(run(*words, setting), setting.split("=")[0], "What can be set here is threshold.")


def test_people_are_told_the_pace(run: Run, outliners: Path, pictures: Path) -> None:
    done = run("stream", pictures, "--recipe", outliners, "--threads", "1")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("4 frames: ") and "median" in done.out and done.out.count("\n") == 1


def test_frames_come_in_natural_order(pictures: Path) -> None:
    source = open_source(str(pictures))
    assert source.count == 4
    seen = [(frame.number, frame.name) for frame in source.frames]
    assert seen == [(1, "p1/1"), (2, "p1/2"), (3, "p1/9"), (4, "p1/10")]


def test_a_picture_is_what_its_window_says(pictures: Path, run: Run, unfiltered: Path) -> None:
    path = pictures / "p1" / "1.png"
    frame = next(open_source(str(path)).frames)
    hu, pixel = frame.read()
    # by default a network sees the picture as it is
    assert to_unit(hu) == pytest.approx(slice_of(MUCH) / np.float32(255), abs=1e-6)
    assert pixel == (WIDE_MM / SIDE,) * 2
    hu, _ = next(open_source(str(path), (-1350.0, 150.0)).frames).read()
    assert hu[0, 0] == pytest.approx(-1350 + TISSUE / 255 * 1500, abs=0.01)
    # white that stands for −500 HU is nothing that this network outlines
    words = ("stream", path, "--recipe", unfiltered, "--threads", "1", "--json", "--window")
    assert told(run(*words, "-1000,400"))["regions"] == 1
    assert told(run(*words, "-1000,-500"))["regions"] == 0


def test_the_classic_steps_are_pictures_too(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "out", "--steps", "--every", "4", "--threads", "1")
    assert files(tmp_path / "out") == ["00001.png", "steps/00001.png"]
    strip = np.asarray(Image.open(tmp_path / "out" / "steps" / "00001.png"))
    assert strip.shape == (SIDE, 5 * SIDE)
    assert np.array_equal(strip[:, :SIDE], slice_of(MUCH))


def test_white_masks_and_the_pace_on_the_frame(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("stream", pictures, "--recipe", outliners, "--every", "4", "--threads", "1")
    run(*words, "-o", tmp_path / "plain")
    run(*words, "-o", tmp_path / "out", "--masks", "--fps")
    assert files(tmp_path / "out") == ["00001.png", "masks/00001.png"]
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "00001.png"))
    assert mask.shape == (SIDE, SIDE) and set(np.unique(mask)) == {0, 255}
    assert (mask[17:23, 13:19] == 255).all() and not mask[26:].any() and not mask[:, 22:].any()
    plain, paced = (np.asarray(Image.open(tmp_path / name / "00001.png")).astype(int) for name in ("plain", "out"))
    changed = np.argwhere((plain != paced).any(axis=2))
    assert len(changed) and (changed.max(axis=0) < (20, 80)).all()  # a few words in the corner, and nothing else


def test_white_masks_are_material_to_train_on(run: Run, pictures: Path, tmp_path: Path) -> None:
    """Under the names of their slices; the network has the classes that method D's publication names."""
    classes = ["segmenter.classes=non-nodule,nodule", "segmenter.loss=cross-entropy"]
    folder = made_outliners.write(tmp_path / "run", changed(RESNET_UNET_PATCH_CNN, classes))
    words = ("--recipe", folder, "--masks", "--fps", "--threads", "1")
    assert run("stream", pictures, *words, "-o", tmp_path / "out", "--identify").code == 0
    data = tmp_path / "data"
    data.mkdir()
    pictures.rename(data / "images")
    (tmp_path / "out" / "masks").rename(data / "masks")
    material = load_pictures(data)
    assert dict(zip(material.items, material.has_nodule.tolist(), strict=True)) == {
        "p1/1": True, "p1/2": False, "p1/9": True, "p1/10": False
    }  # fmt: skip
    _, truth = material.examples(Field(SIDE, ("nodule",)), np.flatnonzero(material.has_nodule)[:1])
    assert truth[0, 0, 17:23, 13:19].all() and not truth[0, 0, 26:].any()
    source = video(tmp_path / "in.avi", slice_of(MUCH), slice_of())
    assert run("stream", source, *words, "-o", tmp_path / "frames").code == 0
    assert files(tmp_path / "frames") == ["00001.png", "00002.png", "masks/00001.png", "masks/00002.png"]
    white = [np.asarray(Image.open(tmp_path / "frames" / "masks" / f"0000{n}.png")).any() for n in (1, 2)]
    assert white == [True, False]


def test_every_class_is_drawn_in_the_colour_that_the_figures_give_it() -> None:
    """Of method B: left lung red, right lung green, nodule blue; one that no filter kept belongs to its lung."""
    assert SE_AUX_UNET.segmenter is not None
    names = dict(enumerate(SE_AUX_UNET.segmenter.classes[1:], start=1))
    value = {name: number for number, name in names.items()}
    labels = np.zeros((1, SIDE, SIDE), np.uint8)
    labels[0, 8:56, 36:58], labels[0, 8:56, 6:28] = value["left lung"], value["right lung"]
    labels[0, 16:24, 20:28] = labels[0, 40:48, 36:44] = value["nodule"]  # at the walls of the right and the left
    drawn = Mask(labels, Geometry.axial((1, SIDE, SIDE)), names)
    kept = Finding(0.9, Box((0, 16, 20), (1, 24, 28)), np.ones((1, 8, 8), bool))
    picture = streams.overlaid(np.zeros((SIDE, SIDE), np.float32), [kept], drawn)
    scale = streams.SMALL_PX // SIDE
    columns = {name: np.flatnonzero(painted(picture, name)[44 * scale]) for name in value}
    assert np.allclose([columns["right lung"].min(), columns["right lung"].max()], [6 * scale, 28 * scale], atol=2)
    # the rejected one at its inner wall changes nothing of the left lung's outline
    assert np.allclose([columns["left lung"].min(), columns["left lung"].max()], [36 * scale, 58 * scale], atol=2)
    assert len(columns["left lung"]) <= 6 and not len(columns["nodule"])
    beside = np.flatnonzero(painted(picture, "nodule")[20 * scale])
    assert np.allclose([beside.min(), beside.max()], [20 * scale, 28 * scale], atol=2)
    airway = Mask(labels, drawn.geometry, {1: "airway", 3: "nodule"})
    picture = streams.overlaid(np.zeros((SIDE, SIDE), np.float32), [], airway)
    assert (np.asarray(picture) == streams.YELLOW).all(axis=2).any()


# ---- pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only where a test says so."""
    passed = SimpleNamespace(s=0.0)
    monkeypatch.setattr(streams, "time", SimpleNamespace(perf_counter=lambda: passed.s))
    return passed


def test_frames_a_second_count_decoding_waiting_and_what_is_skipped(outliners: Path, clock: SimpleNamespace) -> None:
    def read() -> tuple[np.ndarray, tuple[float, float]]:
        clock.s += 0.25
        return grey_as_hu(slice_of(MUCH) / np.float32(255)), (0.7, 0.7)

    def frames() -> Iterator[Frame]:
        for number in range(8):
            clock.s += 1.0
            yield Frame(number, "", read)

    paces: list[float] = []
    segmenter = streams.load_segmenter(outliners, threads=1)
    statistics = streams.stream(
        Source(frames(), None), segmenter, streams.FrameOutput(None, (-1000.0, 400.0)), every=3,
        show=lambda statistics: paces.append(statistics.pace),
    )  # fmt: skip
    # frames 0, 3 and 6 are done after 1, 4 and 7 waits; one more is waited for
    assert statistics.shown == [1.25, 4.5, 7.75] and statistics.work == [0.25] * 3
    assert paces == pytest.approx([1 / 1.25, 2 / 4.5, 3 / 7.75])
    told = streams.summary(statistics, segmenter, (-1000.0, 400.0))
    assert (told["frames"], told["work_s"], told["total_s"]) == (3, 0.75, 8.75)
    assert told["fps_mean"] == pytest.approx(3 / 8.75, abs=0.005)
    assert told["fps_median"] == pytest.approx(1 / 3.25, abs=0.005)
    assert "3 frames: 0.3 a second" in sentence(told) and "work 250 ms a frame" in sentence(told)


# ---- DICOM


@pytest.mark.parametrize("cosines", [dicom_files.AXIAL, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)], ids=["supine", "turned"])
def test_dicom_slices_one_by_one_are_those_of_the_scan(tmp_path: Path, cosines: tuple[float, ...]) -> None:
    folder = dicom_files.save(tmp_path / "ct", dicom_files.slices(cosines=cosines))
    scan = read(folder)
    single = [one() for one in read_one_by_one(folder)]
    assert len(single) == scan.geometry.shape[0]
    for z, one in enumerate(single):
        assert np.array_equal(one.hu[0], scan.hu[z])
        assert one.geometry.to_lps((0, 3, 5)) == pytest.approx(scan.geometry.to_lps((z, 3, 5)))
        assert one.source.slices == (scan.source.slices[z],)
    upright, _ = canonical(scan)
    frames = list(open_source(str(folder)).frames)
    seen = [frame.read() for frame in frames]
    assert [(frame.number, frame.name) for frame in frames[:2]] == [(1, ""), (2, "")]
    assert all(np.array_equal(hu, upright.hu[z]) for z, (hu, _) in enumerate(seen))
    assert seen[0][1] == upright.geometry.spacing_zyx[1:]


def test_a_dicom_folder_is_streamed_without_its_damaged_slice(run: Run, unfiltered: Path, tmp_path: Path) -> None:
    hu = dicom_files.body((6, 60, 60))
    hu[3, 26:34, 16:24] = 300
    folder = dicom_files.save(tmp_path / "ct", dicom_files.slices(hu))
    words = ("stream", folder, "--recipe", unfiltered, "--threads", "1", "--json")
    assert told(run(*words))["frames_with_regions"] >= 1
    cut = sorted(folder.iterdir())[2]
    cut.write_bytes(cut.read_bytes()[:-3000])
    done = run(*words, "-o", tmp_path / "out")
    found = told(done)
    assert found["frames"] == 5 and len(files(tmp_path / "out")) == 5
    (said,) = found["left_out"]  # positions rise against the order of files
    assert said.startswith("Frame ") and "(UnreadableFile)" in said and cut.name not in done.out + done.err
    found = told(run(*words, "--identify"))
    assert cut.name in found["left_out"][0] and "truncated" in found["left_out"][0]


def test_slices_that_are_not_axial_are_refused(run: Run, unfiltered: Path, tmp_path: Path) -> None:
    coronal = dicom_files.slices(cosines=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    done = run("stream", dicom_files.save(tmp_path / "ct", coronal), "--recipe", unfiltered, "--identify")
    assert done.code == 2 and "not axial" in done.err


# ---- video


def video(path: Path, *images: np.ndarray) -> Path:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, images[0].shape[::-1])
    assert writer.isOpened()
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def test_a_video_is_outlined_frame_by_frame_into_a_film(run: Run, outliners: Path, tmp_path: Path) -> None:
    source = video(tmp_path / "in.avi", *[slice_of(MUCH), slice_of(), slice_of(SOME)] * 2)
    frames = open_source(str(source))
    assert (frames.count, frames.pace) == (6, 5.0)
    hu, _ = next(frames.frames).read()
    assert np.abs(to_unit(hu) - slice_of(MUCH) / 255).mean() < 0.02
    film = tmp_path / "films" / "out.mp4"
    found = told(run("stream", source, "--recipe", outliners, "-o", film, "--threads", "1", "--json"))
    assert (found["frames"], found["frames_with_regions"]) == (6, 2)
    assert files(film.parent) == ["out.mp4"]
    drawn = list(open_source(str(film)).frames)
    assert len(drawn) == 6 and open_source(str(film)).pace == 5.0
    thinned = told(run("stream", source, "--recipe", outliners, "--every", "3", "--threads", "1", "--json"))
    assert (thinned["frames"], thinned["frames_with_regions"]) == (2, 2)


def test_frames_of_a_film_are_of_one_size(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    Image.fromarray(slice_of()[:40]).save(pictures / "p1" / "3.png")
    refused(run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "films" / "out.mp4"), "00003", "folder")
    assert files(tmp_path / "films") == []


def test_without_its_package_a_video_says_what_to_install(
    run: Run, outliners: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video(tmp_path / "in.avi", slice_of())
    monkeypatch.setitem(sys.modules, "cv2", None)
    for words in ((source,), ("0",), (pictures, "-o", tmp_path / "out.mp4")):
        refused(run("stream", *words, "--recipe", outliners), "nodulens[video]", code=1)
    assert told(run("stream", pictures, "--recipe", outliners, "--json"))["frames"] == 4


class Camera:
    """What OpenCV gives of a camera that is unplugged after some pictures."""

    def __init__(self, *pictures: np.ndarray) -> None:
        self.pictures, self.number = pictures, -1
        self.grabbed, self.retrieved, self.released = 0, [], False

    def opened(self, number: int) -> Camera:
        self.number = number
        return self

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.grabbed += 1
        return self.grabbed <= len(self.pictures)

    def retrieve(self) -> tuple[bool, np.ndarray]:
        self.retrieved.append(self.grabbed)
        return True, np.repeat(self.pictures[self.grabbed - 1][:, :, None], 3, axis=2)

    def get(self, key: int) -> float:
        return -1.0  # cameras know neither how many frames there will be nor, often, how many a second

    def release(self) -> None:
        self.released = True


def test_a_camera_is_outlined_until_it_ends(
    run: Run, outliners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no file is called 0
    camera = Camera(slice_of(MUCH), slice_of(), slice_of(SOME), slice_of(), slice_of(MUCH))
    monkeypatch.setattr("cv2.VideoCapture", camera.opened)
    found = told(run("stream", "0", "--recipe", outliners, "--every", "2", "-o", "out", "--threads", "1", "--json"))
    assert (found["frames"], found["frames_with_regions"], found["stopped"]) == (3, 2, False)
    assert files(tmp_path / "out") == ["00001.png", "00003.png", "00005.png"]
    assert painted(tmp_path / "out" / "00005.png", "nodule").any()
    assert (camera.number, camera.retrieved, camera.released) == (0, [1, 3, 5], True)
    monkeypatch.setattr("cv2.VideoCapture", Camera(slice_of()).opened)
    source = open_source("0")
    assert (source.count, source.pace) == (None, PACE)


def test_there_is_no_such_camera(run: Run, outliners: Path) -> None:
    done = run("stream", "97", "--recipe", outliners)
    assert done.code == 2 and "no camera 97" in done.err


# ---- bad input


def test_names_of_the_source_are_written_only_where_they_are_asked_for(
    run: Run, outliners: Path, pictures: Path, tmp_path: Path
) -> None:
    """Folder and files bear the patient's name, one file is damaged, and another run is drawn with the steps."""
    source = pictures.rename(tmp_path / "Quirinzyx_Wolframvax")
    for path in source.rglob("*.png"):
        path.rename(path.with_name(f"Quirinzyx-{path.name}"))
    (source / "p1" / "Quirinzyx-9.png").write_bytes(b"\x89PNG\r\n\x1a\nQuirinzyx")
    words = ("stream", source, "--recipe", outliners, "--steps", "--threads", "1")
    for done in (run(*words, "-o", tmp_path / "a", "--json"), run(*words, "-o", tmp_path / "b")):
        assert done.code == 0 and "Frame 3 cannot" in done.err
        assert "quirinzyx" not in (done.out + done.err).lower() and "wolframvax" not in (done.out + done.err).lower()
    for path in (*(tmp_path / "a").rglob("*"), *(tmp_path / "b").rglob("*")):
        assert "quirinzyx" not in path.relative_to(tmp_path).as_posix().lower()
        assert path.is_dir() or b"quirinzyx" not in path.read_bytes().lower()
    found = told(run(*words, "-o", tmp_path / "c", "--json", "--identify"))
    assert "Quirinzyx-9.png" in found["left_out"][0]
    assert files(tmp_path / "c")[0] == "p1/Quirinzyx-1.png" and len(files(tmp_path / "c")) == 6


def test_a_broken_picture_is_left_out_and_numbered(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "p1" / "2.png").write_bytes((pictures / "p1" / "2.png").read_bytes()[:60])
    done = run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "out", "--json")
    found = told(done)
    said = "Frame 2 cannot be read (UnreadableFile); --identify names its file and says why."
    assert found["frames"] == 3 and found["left_out"] == [said] and done.err == f"Left out: {said}\n"
    assert files(tmp_path / "out") == ["00001.png", "00003.png", "00004.png"]
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"no picture")
    done = run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "none")
    assert done.code == 2 and "Not one frame" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("unshipped")
def test_what_cannot_be_streamed_is_said(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no video")
    ours = ("--recipe", outliners)
    refused(run("stream", tmp_path / "empty", *ours), "empty")
    refused(run("stream", tmp_path / "nowhere", *ours), "no file or folder")
    assert "no video" in run("stream", tmp_path / "note.txt", *ours).err
    refused(run("stream", pictures, "--recipe", "default"), "no single slices", "se-aux-unet, nnunet-sam")
    refused(run("stream", pictures, "--recipe", "resnet-unet-patch-cnn"), "nodulens train resnet-unet", code=1)
    refused(run("stream", pictures, "--recipe", "unet"), "resnet-unet-patch-cnn")
    for window in ("400,-1000", "black", "1,2,3", "nan,1"):
        refused(run("stream", pictures, *ours, "--window", window), "black and white")
    refused(run("stream", pictures, *ours, "--steps"), "--output")
    refused(run("stream", pictures, *ours, "--masks"), "--output")
    refused(run("stream", pictures, *ours, "--steps", "-o", tmp_path / "a.mp4"), "--output")
    refused(run("stream", pictures, *ours, "-o", pictures / "drawn"), "is inside the source")
    refused(run("stream", pictures, *ours, "-o", tmp_path / "note.txt"), "is a file")
    assert len(files(pictures)) == 4


def test_a_damaged_network_is_not_used(run: Run, pictures: Path, tmp_path: Path) -> None:
    broken = made_outliners.write(tmp_path / "run")
    (broken / "filter.onnx").write_bytes(b"")
    refused(run("stream", pictures, "--recipe", broken), "filter.onnx", code=1)


# ---- stopped


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the third frame is segmented."""
    segment, seen = streams.SliceSegmenter.segment, []

    def then_stop(self: streams.SliceSegmenter, *frame: object) -> tuple[list, Mask]:  # type: ignore[type-arg]
        seen.append(frame)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, *frame)  # type: ignore[arg-type]

    monkeypatch.setattr(streams.SliceSegmenter, "segment", then_stop)


@pytest.mark.usefixtures("third")
def test_what_was_drawn_before_a_stop_stays(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    found = told(run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "out", "--json"))
    assert found["stopped"] and found["frames"] == 2
    assert files(tmp_path / "out") == ["00001.png", "00002.png"]


@pytest.mark.usefixtures("third")
def test_a_film_that_was_stopped_ends_well(run: Run, outliners: Path, pictures: Path, tmp_path: Path) -> None:
    done = run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "films" / "out.mp4")
    assert done.code == 0 and done.out.startswith("Stopped after 2 frames")
    assert files(tmp_path / "films") == ["out.mp4"]
    assert len(list(open_source(str(tmp_path / "films" / "out.mp4")).frames)) == 2


def test_stopped_before_its_first_frame_nothing_is_there(
    run: Run, outliners: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: streams.SliceSegmenter, *frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(streams.SliceSegmenter, "segment", stop)
    for name in ("out", "out.mp4"):
        done = run("stream", pictures, "--recipe", outliners, "-o", tmp_path / "made" / name)
        assert done.code not in (0, 2) and done.out == "" and "Traceback" not in done.err
        assert not (tmp_path / "made").exists() or files(tmp_path / "made") == []


def test_the_library_raises_what_the_command_says(outliners: Path, pictures: Path, tmp_path: Path) -> None:
    segmenter = streams.load_segmenter(outliners, threads=1)
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UnreadableFile, match="Not one frame"):
        streams.stream(open_source(str(pictures)), segmenter, streams.FrameOutput(None, (-1000.0, 400.0)))
    with pytest.raises(BadOption, match="one name"):
        (pictures / "p1" / "1.jpg").write_bytes(b"")
        open_source(str(pictures))
