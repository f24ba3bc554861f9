"""Folders of slices: every way in which masks and boxes are drawn, and names that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nodulens.core.nodule import Box
from nodulens.data.folders import SliceFolder, files_below, open_folder, read_mask_picture, read_picture
from nodulens.errors import BadOption, BadValues, NotFound, UnreadableFile

HEIGHT, WIDTH = 40, 60
DRAWN = Box((0, 10, 20), (1, 18, 32))


def picture(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def truth() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[DRAWN.slices[1:]] = True
    return mask


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """Two patients with two slices each, PNG and JPEG; the first of each is meant to show a nodule."""
    grey = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    for patient in ("P1", "P2"):
        picture(tmp_path / "images" / patient / "0.png", grey)
        picture(tmp_path / "images" / patient / "1.jpg", np.stack([grey] * 3, axis=2))
    return tmp_path / "images"


def check(folder: SliceFolder, *, masks: bool) -> None:
    """The first slice of each patient shows one nodule, the second none."""
    items = folder.items()
    assert [i.key for i in items] == ["P1/0", "P1/1", "P2/0", "P2/1"]
    assert [i.patient_id for i in items] == ["P1", "P1", "P2", "P2"]
    assert [i.stratum for i in items] == ["nodule", "no nodule"] * 2
    with_nodule, without = folder.load(items[0]), folder.load(items[1])
    assert with_nodule.boxes == (DRAWN,) and with_nodule.label == 1
    assert without.boxes == () and without.label == 0
    assert with_nodule.image.shape == (1, HEIGHT, WIDTH) and with_nodule.image.dtype == np.float32
    assert with_nodule.image.min() == 0 and with_nodule.image.max() == 1 and with_nodule.unit == "unit"
    if masks:
        assert with_nodule.mask is not None and np.array_equal(with_nodule.mask[0], truth())
        assert without.mask is not None and not without.mask.any()
    else:
        assert with_nodule.mask is None


def coloured(colour: tuple[int, int, int]) -> np.ndarray:
    return np.where(truth()[..., None], np.array(colour, np.uint8), np.uint8(0))


@pytest.mark.parametrize(
    "drawn",
    [
        truth().astype(np.uint8) * 255,
        truth().astype(np.uint8),
        truth().astype(np.uint8) * 3,
        coloured((255, 0, 0)),
        coloured((128, 0, 0)),
        coloured((0, 0, 200)),
        truth(),
        truth().astype(np.uint16) * 65535,
    ],
    ids=["grey", "ones", "label", "red", "dark red", "blue", "one bit", "16 bits"],
)
def test_masks_of_any_colour(slices: Path, drawn: np.ndarray) -> None:
    for patient in ("P1", "P2"):
        picture(slices.parent / "masks" / patient / "0.png", drawn)
    picture(slices.parent / "masks" / "P1" / "1.png", np.zeros_like(drawn))  # drawn, but empty
    check(open_folder(slices, masks=slices.parent / "masks"), masks=True)


def test_a_mask_with_a_palette(slices: Path) -> None:
    indexed = Image.fromarray(truth().astype(np.uint8), mode="P")
    indexed.putpalette([0, 0, 0, 0, 200, 0])
    for patient in ("P1", "P2"):
        (slices.parent / "masks" / patient).mkdir(parents=True)
        indexed.save(slices.parent / "masks" / patient / "0.png")
    check(open_folder(slices, masks=slices.parent / "masks"), masks=True)


def test_masks_as_jpeg_keep_their_edges(slices: Path) -> None:
    for patient in ("P1", "P2"):
        picture(slices.parent / "masks" / patient / "0.jpg", truth().astype(np.uint8) * 255, quality=90)
    noise = np.random.default_rng(0).integers(0, 6, (HEIGHT, WIDTH)).astype(np.uint8)
    picture(slices.parent / "masks" / "P2" / "1.jpg", noise)  # what compression leaves of an empty one
    check(open_folder(slices, masks=slices.parent / "masks"), masks=True)


def test_masks_may_lie_among_the_slices(slices: Path) -> None:
    for patient in ("P1", "P2"):
        picture(slices / patient / "0_mask.png", truth().astype(np.uint8) * 255)
    check(open_folder(slices, masks=slices), masks=True)


def test_a_colour_can_be_chosen(tmp_path: Path) -> None:
    both = coloured((255, 0, 0))
    both[:5, :5] = (0, 255, 0)
    path = picture(tmp_path / "m.png", both)
    assert read_mask_picture(path).sum() == truth().sum() + 25
    assert np.array_equal(read_mask_picture(path, (255, 0, 0)), truth())
    lungs = np.where(truth(), 3, 1).astype(np.uint8)
    assert np.array_equal(read_mask_picture(picture(tmp_path / "n.png", lungs), 3), truth())


def test_two_parts_are_two_boxes(slices: Path) -> None:
    drawn = truth()
    drawn[30:33, 40:41] = True
    picture(slices.parent / "masks" / "P1" / "0.png", drawn)
    folder = open_folder(slices, masks=slices.parent / "masks")
    assert set(folder.load(folder.items()[0]).boxes or ()) == {DRAWN, Box((0, 30, 40), (1, 33, 41))}


def test_boxes_of_pascal_voc_count_from_one_to_the_last(slices: Path) -> None:
    for patient in ("P1", "P2"):
        path = slices.parent / "boxes" / patient / "0.xml"
        path.parent.mkdir(parents=True)
        corners = "<xmin>21</xmin><ymin>11</ymin><xmax>32</xmax><ymax>18</ymax>"
        path.write_text(f"<annotation><object><name>n</name><bndbox>{corners}</bndbox></object></annotation>")
    (slices.parent / "boxes" / "P1" / "1.xml").write_text("<annotation></annotation>")
    check(open_folder(slices, boxes=slices.parent / "boxes"), masks=False)
    (slices.parent / "boxes" / "P1" / "1.xml").write_text("<annotation>")
    with pytest.raises(UnreadableFile, match="Pascal VOC"):
        open_folder(slices, boxes=slices.parent / "boxes")


def test_boxes_of_yolo_are_shares_of_the_picture(slices: Path) -> None:
    for patient in ("P1", "P2"):
        path = slices.parent / "boxes" / patient / "0.txt"
        path.parent.mkdir(parents=True)
        path.write_text(f"0 {26 / WIDTH:.6f} {14 / HEIGHT:.6f} {12 / WIDTH:.6f} {8 / HEIGHT:.6f}\n")
    (slices.parent / "boxes" / "P2" / "1.txt").write_text("")
    check(open_folder(slices, boxes=slices.parent / "boxes"), masks=False)
    (slices.parent / "boxes" / "P2" / "1.txt").write_text("0 0.5 0.5 0.1\n")
    with pytest.raises(UnreadableFile, match=r"1.txt, line 1"):
        open_folder(slices, boxes=slices.parent / "boxes")


def test_boxes_of_a_table(slices: Path) -> None:
    table = slices.parent / "boxes.csv"
    table.write_text("filename,xmin,ymin,xmax,ymax,class\nP1/0.png,20,10,32,18,n\nP2\\0,20,10,32,18,n\n")
    check(open_folder(slices, boxes=table), masks=False)
    table.write_text("filename,xmin,ymin,xmax,ymax\n0.png,20,10,32,18\n")
    with pytest.raises(NotFound, match=r"line 2: 2 slices are called '0.png'"):
        open_folder(slices, boxes=table)
    table.write_text("filename,xmin,ymin,xmax,ymax\nP1/0.png,32,10,20,18\n")
    with pytest.raises(BadValues, match="line 2"):
        open_folder(slices, boxes=table)
    table.write_text("filename,xmin,ymin,xmax,ymax\nP1/0.png,20,10,32,180\n")
    folder = open_folder(slices, boxes=table)
    with pytest.raises(BadValues, match="outside"):
        folder.load(folder.items()[0])


def test_names_that_do_not_fit_are_an_error_not_a_healthy_slice(slices: Path) -> None:
    picture(slices.parent / "masks" / "P1" / "slice0.png", truth().astype(np.uint8) * 255)
    with pytest.raises(NotFound, match=r"1 of 1 masks or boxes .* 'P1/slice0'"):
        open_folder(slices, masks=slices.parent / "masks")


def test_the_patient_comes_from_the_path_or_a_pattern(slices: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    picture(flat / "LIDC-IDRI-0007_12.png", np.zeros((4, 4), np.uint8))
    picture(flat / "LIDC-IDRI-0007_13.png", np.zeros((4, 4), np.uint8))
    masks = tmp_path / "none"
    masks.mkdir()
    with pytest.raises(BadOption, match="--patient"):
        open_folder(flat, masks=masks)
    named = open_folder(flat, masks=masks, patient=r"(LIDC-IDRI-\d{4})")
    assert {i.patient_id for i in named.items()} == {"LIDC-IDRI-0007"}
    assert len({i.patient_id for i in open_folder(flat, masks=masks, patient="(.+)").items()}) == 2
    for wrong in (r"(Q\d)", r"\d", "("):
        with pytest.raises(BadOption):
            open_folder(flat, masks=masks, patient=wrong)


def test_patients_may_be_links(slices: Path, tmp_path: Path) -> None:
    (slices / "P2").rename(tmp_path / "store")
    (slices / "P2").symlink_to(tmp_path / "store", target_is_directory=True)
    assert list(files_below(slices, (".png", ".jpg"))) == ["P1/0", "P1/1", "P2/0", "P2/1"]


def test_what_cannot_be_read_is_named(slices: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(BadOption, match="exactly one"):
        open_folder(slices)
    with pytest.raises(NotFound, match="no folder"):
        open_folder(tmp_path / "nowhere", masks=masks)
    with pytest.raises(NotFound, match=r"holds no \.png"):
        open_folder(masks, masks=masks)
    with pytest.raises(BadOption, match="one name"):
        picture(slices / "P1" / "0.jpeg", np.zeros((4, 4), np.uint8))
        open_folder(slices, masks=masks)
    (tmp_path / "cut.png").write_bytes((slices / "P1" / "0.png").read_bytes()[:80])
    with pytest.raises(UnreadableFile, match=r"cut\.png"):
        read_picture(tmp_path / "cut.png")


def test_sizes_must_agree(slices: Path) -> None:
    picture(slices.parent / "masks" / "P1" / "0.png", np.full((HEIGHT // 2, WIDTH // 2), 255, np.uint8))
    folder = open_folder(slices, masks=slices.parent / "masks")
    with pytest.raises(BadValues, match="one size"):
        folder.load(folder.items()[0])


def test_sixteen_bits_are_shares_of_their_range(tmp_path: Path) -> None:
    deep = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert read_picture(picture(tmp_path / "d.png", deep)).tolist() == [[0.0, pytest.approx(0.5, abs=1e-4), 1.0]]
