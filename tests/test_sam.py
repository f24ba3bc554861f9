"""SAM and SAM2: where a prompt lands, where a mask comes back, and loading what was saved in the published format."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_sam import Drawn
from nodulens.core.geometry import Geometry
from nodulens.core.nodule import Box
from nodulens.core.volume import Mask, Volume
from nodulens.errors import BadOption, BadPrompt, CorruptWeights, MissingExtra, MissingWeights
from nodulens.methods.catalogue import NNUNET_SAM, SAM2_DENSENET
from nodulens.stages.prompted import view_of
from nodulens.stages.prompts import DRAWN, Prompt
from nodulens.stages.sam import (
    PLAIN,
    USUAL,
    Embedding,
    Embeddings,
    Frame,
    Pixels,
    Sam,
    Spot,
    kind_of,
    load_sam,
)
from nodulens.stages.user_prompts import UserPrompt

SHAPE = (9, 40, 60)
PROMPT = Prompt((2.0, 12.0, 30.0), (7.0, 20.0, 42.0), DRAWN)
HELD = Box((2, 12, 30), (7, 20, 42))
PLAIN_AT_HALF = Pixels((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
"""Above 0 is denser than −300 HU."""


@pytest.fixture
def volume() -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.integers(-1100, 500, SHAPE).astype(np.int16), Geometry.axial(SHAPE, (2.5, 0.7, 0.7)))


def painted(found: tuple[Box, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    box, mask = found
    assert Box.of_mask(mask) == Box((0, 0, 0), box.shape), "the box is tight"
    out = np.zeros(SHAPE, dtype=bool)
    out[box.slices] = mask
    return out


def filled(box: Box) -> NDArray[np.bool_]:
    out = np.zeros(SHAPE, dtype=bool)
    out[box.slices] = True
    return out


def test_faces_are_placed_as_worked_by_hand() -> None:
    whole = Frame((512, 512), (1024, 1024), 1024)
    assert whole.place([(10, 20), (12.5, 30)]) == [[39.5, 19.5], [59.5, 24.5]]
    padded = Frame((50, 100), (512, 1024), 1024)  # kept in shape: 10.24 pixels for one, both ways
    assert padded.place([(0, 0), (50, 100)]) == [[-0.5, -0.5], [1023.5, 511.5]]
    stretched = Frame((50, 100), (1024, 1024), 1024)
    assert stretched.place([(25, 25)]) == [[255.5, 511.5]]


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("part", ["slice", "crop"])
def test_a_box_comes_back_where_it_was(volume: Volume, square: bool, part: str) -> None:
    sam = Sam(Drawn(square), view=partial(view_of, part=part))
    assert np.array_equal(painted(sam.segment(volume, PROMPT)), filled(HELD))


@pytest.mark.parametrize("square", [True, False])
def test_a_point_lands_in_the_middle_and_the_best_outline_is_taken(volume: Volume, square: bool) -> None:
    found = painted(Sam(Drawn(square), prompt_kind="point").segment(volume, PROMPT))
    assert np.allclose(np.argwhere(found).mean(axis=0), HELD.centre_zyx, atol=0.3)


def test_a_mask_comes_back_as_it_was_given(volume: Volume) -> None:
    prior = filled(HELD)
    prior[2, 14:] = False
    prior[6] = False
    sam = Sam(Drawn(square=False), prompt_kind="mask")
    assert np.array_equal(painted(sam.segment(volume, PROMPT, prior)), prior)
    for nothing in (None, np.zeros(SHAPE, dtype=bool)):
        with pytest.raises(BadPrompt, match="earlier mask"):
            sam.segment(volume, PROMPT, nothing)


def test_memory_starts_in_the_middle_or_where_the_mask_is_largest(volume: Volume) -> None:
    carried = painted(Sam(Drawn(square=True), memory=True).segment(volume, PROMPT))
    assert np.array_equal(carried, filled(Box((3, 12, 30), (6, 20, 42))))
    prior = filled(HELD)
    prior[[2, 3, 4, 6], 15:] = False
    carried = painted(Sam(Drawn(square=True), prompt_kind="mask", memory=True).segment(volume, PROMPT, prior))
    assert np.array_equal(carried, filled(Box((4, 12, 30), (7, 20, 42))))


def test_a_picture_is_encoded_once_and_the_cache_is_bounded(volume: Volume) -> None:
    net = Drawn(square=True, side=64)
    sam = Sam(net)
    sam.segment(volume, PROMPT)
    assert net.encoded == 5
    replace(sam, prompt_kind="point").segment(volume, Prompt((1.0, 5.0, 5.0), (4.0, 20.0, 20.0), DRAWN))
    assert net.encoded == 6, "slices 2 and 3 are known, slice 1 is new"
    replace(sam, pixels=PLAIN).encode(np.zeros((4, 4), dtype=np.float32))
    sam.encode(np.zeros((4, 4), dtype=np.float32))
    assert net.encoded == 8, "normalised otherwise, it is another picture"
    one = 3 * 64 * 64 * 4
    small = Sam(net := Drawn(square=True, side=64), cache=Embeddings(2 * one))
    first, second, third = (np.full((4, 4), v, dtype=np.float32) for v in (0, 0.5, 1))
    for image in (first, second, first, third, first):
        small.encode(image)
    assert net.encoded == 3 and len(small.cache.kept) == 2, "the one unused for longest goes"
    small.encode(second)
    assert net.encoded == 4


def test_hounsfield_units_become_a_normalised_picture() -> None:
    net = Drawn(square=False, side=8)
    hu = np.array([[[-2000, -1000], [-300, 3000]]], dtype=np.int16)
    sam = Sam(net, pixels=Pixels((0.5, 0.25, 0.0), (0.5, 1.0, 2.0)))
    sam.segment(Volume(hu, Geometry.axial((1, 2, 2))), Prompt((0, 0, 0), (1, 2, 2), DRAWN))
    corner = net.seen[0][0, :, [0, 0, 7, 7], [0, 7, 0, 7]]
    unit = torch.tensor([0, 0, 0.5, 1])
    assert torch.allclose(corner, torch.stack([(unit - 0.5) / 0.5, unit - 0.25, unit / 2]), atol=1e-6)


def test_grey_values_may_go_from_the_lowest_to_the_highest_of_the_scan() -> None:
    """Of the whole scan, not of the slice or the view."""
    net = Drawn(square=False, side=8)
    hu = np.array([[[-2000, -1000], [-300, 0]], [[0, 0], [0, 3000]]], dtype=np.int16)
    sam = Sam(net, pixels=Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), window=None)
    sam.segment(Volume(hu, Geometry.axial((2, 2, 2))), Prompt((0, 0, 0), (1, 2, 2), DRAWN))
    corner = net.seen[0][0, 0, [0, 0, 7, 7], [0, 7, 0, 7]]
    assert torch.allclose(corner, torch.tensor([0, 0.2, 0.34, 0.4]), atol=1e-6)


def test_nothing_found_is_said(volume: Volume) -> None:
    class Blank(Drawn):
        def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
            return -torch.ones(1, 16, 16), torch.ones(1)

    with pytest.raises(BadPrompt, match="looks like a nodule"):
        Sam(Blank(square=True)).segment(volume, PROMPT)


# ---------------------------------------------------------------- a prompt on one slice


class Bright(Drawn):
    """Outlines what is bright within two pixels of the box, or in one piece with the point; memory sees it all."""

    remembers = True

    def __init__(self) -> None:
        super().__init__(square=False, side=60)

    def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
        bright = torch.where(maps[0][:, 0] > 0, 1.0, -1.0)
        if "input_points" in spot:
            return bright, torch.ones(1)
        wide = {name: faces + torch.tensor([-2.0, -2.0, 2.0, 2.0]) for name, faces in spot.items() if "box" in name}
        near, fit = super().decode(maps, wide or spot, False)
        return torch.minimum(bright, near), fit

    def carry(
        self, embed: Callable[[int], Embedding], count: int, at: int, spot: dict[str, Tensor]
    ) -> dict[int, Tensor]:
        return {k: torch.where(embed(k).maps[0][0, 0] > 0, 1.0, -1.0) for k in range(count)}


BALL_ZYX, BALL_MM = (5.0, 25.0, 30.0), 5.0


@pytest.fixture
def ball() -> tuple[Volume, NDArray[np.bool_]]:
    """A bright ball in the dark, and something as bright above it that does not touch it."""
    geometry = Geometry.axial((14, 50, 60), (1.5, 1.0, 1.0))
    index = np.indices(geometry.shape).transpose(1, 2, 3, 0)
    inside = (((index - BALL_ZYX) * geometry.spacing_zyx) ** 2).sum(axis=-1) <= BALL_MM**2
    hu = np.where(inside, 200, -900).astype(np.int16)
    hu[10:13, 25:29, 30:34] = 200
    return Volume(hu, geometry), inside


def asked_of(ball: Volume, kind: str, inside: NDArray[np.bool_]) -> tuple[UserPrompt, NDArray[np.bool_] | None]:
    """The ball by a person's point, box or mask on one slice."""
    z, y, x = BALL_ZYX
    if kind == "point":
        return UserPrompt(point=(x + 1, y - 2, z), space="voxel"), None
    if kind == "box":
        return UserPrompt(box=(x - 5, y - 5, z, x + 5, y + 5, z), space="voxel"), None
    flat = np.zeros_like(inside)
    flat[int(z)] = inside[int(z)]
    return UserPrompt(mask=Mask(flat.astype(np.uint8), ball.geometry, {1: "rough"})), flat


@pytest.mark.parametrize("part", ["slice", "crop"])
@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_what_is_prompted_on_one_slice_is_followed_to_its_ends(
    ball: tuple[Volume, NDArray[np.bool_]], kind: str, part: str
) -> None:
    volume, inside = ball
    given, _ = asked_of(volume, kind, inside)
    placed = given.on(volume, volume)
    assert placed.kind == kind and placed.box.flat
    net = Bright()
    sam = Sam(net, pixels=PLAIN_AT_HALF, view=partial(view_of, part=part))
    box, mask = sam.network(placed.kind, placed.prior)(volume, placed.box)
    out = np.zeros_like(inside)
    out[box.slices] = mask
    assert np.array_equal(out, inside)
    ends = np.flatnonzero(inside.any(axis=(1, 2)))
    crops = 2 if (kind, part) == ("point", "crop") else 1  # the crop is another once the size is known
    assert net.encoded <= len(ends) + 2 + crops, "slices beyond its ends are not looked at"


def test_a_slice_after_the_end_is_not_taken_in(ball: tuple[Volume, NDArray[np.bool_]]) -> None:
    """A box from the person says how high: what lies above and is as bright is out, unless it is drawn in."""
    volume, inside = ball
    tall = UserPrompt(box=(20, 15, 5, 44, 39, 5), space="voxel").on(volume, volume)
    box, mask = Sam(Bright(), pixels=PLAIN_AT_HALF).network("box", None)(volume, tall.box)
    assert box == Box.of_mask(inside) and mask.sum() == inside.sum()


@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_memory_starts_on_the_slice_that_was_given(ball: tuple[Volume, NDArray[np.bool_]], kind: str) -> None:
    volume, inside = ball
    placed = asked_of(volume, kind, inside)[0].on(volume, volume)
    sam = Sam(Bright(), pixels=PLAIN_AT_HALF, memory=True)
    box, mask = sam.network(placed.kind, placed.prior)(volume, placed.box)
    assert box == Box.of_mask(inside) and mask.sum() == inside.sum()


def test_memory_looks_no_farther_than_there_is_something(sams: Path) -> None:
    sam = load_sam(sams / "sam2")
    images = np.random.default_rng(3).random((5, 64, 64)).astype(np.float32)
    seen: list[int] = []

    def embed(k: int) -> Embedding:
        seen.append(k)
        return sam.encode(images[k])

    steps = iter([True, False, True, True])
    held = sam.net.memory.forward  # type: ignore[attr-defined]

    def emptied(*args: object, **more: object) -> object:
        found = held(*args, **more)
        found.pred_masks = torch.where(torch.tensor(next(steps)), found.pred_masks.abs(), -found.pred_masks.abs())
        return found

    sam.net.memory.forward = emptied  # type: ignore[attr-defined]
    found = sam.net.carry(embed, 5, 2, sam._inputs(sam.encode(images[2]).frame, Spot(point=(30, 37))))
    assert seen == [2, 3, 1, 0] and set(found) == {0, 1, 2, 3}, "4 is beyond the empty slice 3"


# ---------------------------------------------------------------- weights in the published format


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a connection fails the test."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"calls out: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("silent")
def test_sam_decodes_as_its_own_network_does(sams: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sam = load_sam(sams / "sam", "sam")
    assert capfd.readouterr() == ("", "")
    assert sam.pixels == Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    image = np.random.default_rng(1).random((40, 60)).astype(np.float32)
    embedding = sam.encode(image)
    assert embedding.frame == Frame((40, 60), (43, 64), 64)
    from transformers import SamModel

    oracle = SamModel.from_pretrained(sams / "sam").eval()
    picture = (torch.from_numpy(image)[None, None] - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor(
        [0.2, 0.25, 0.3]
    )[:, None, None]
    frame = embedding.frame.fill(picture)
    assert frame[..., 43:, :].abs().max() == 0
    corners = torch.tensor([embedding.frame.place([(10, 20), (25, 45)])]).reshape(1, 1, 4)
    with torch.inference_mode():
        expected = oracle(frame, input_boxes=corners, multimask_output=False).pred_masks[:, 0]
    found = sam.decode(embedding, Spot(box=((10, 20), (25, 45))))
    assert np.allclose(found, embedding.frame.invert(expected)[0, 0].numpy(), atol=1e-4)
    elsewhere = sam.decode(embedding, Spot(box=((2, 2), (8, 9))))
    assert not np.allclose(found, elsewhere, atol=1e-3), "the prompt matters"
    for spot in (Spot(point=(17, 30)), Spot(mask=image > 0.5)):
        assert sam.decode(embedding, spot).shape == (40, 60)
    with pytest.raises(BadOption, match="no memory"):
        sam.propagate([embedding], 0, Spot(point=(17, 30)))


@pytest.mark.usefixtures("silent")
def test_sam2_decodes_as_its_own_network_does(sams: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sam = load_sam(sams / "sam2", "sam2")
    assert capfd.readouterr() == ("", "")
    assert sam.pixels == Pixels()
    image = np.random.default_rng(2).random((40, 60)).astype(np.float32)
    embedding = sam.encode(image)
    from transformers import Sam2Model

    oracle = Sam2Model.from_pretrained(sams / "sam2").eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (Pixels().mean, Pixels().std))
    frame = embedding.frame.fill((torch.from_numpy(image)[None, None] - mean) / std)
    corners = torch.tensor([embedding.frame.place([(10, 20), (25, 45)])]).reshape(1, 1, 4)
    with torch.inference_mode():
        expected = oracle(frame, input_boxes=corners, multimask_output=False).pred_masks[:, 0]
        several = oracle(frame, input_points=torch.tensor([[[[31.5, 27.5]]]]), multimask_output=True)
    found = sam.decode(embedding, Spot(box=((10, 20), (25, 45))))
    assert np.allclose(found, embedding.frame.invert(expected)[0, 0].numpy(), atol=1e-4)
    best = several.pred_masks[:, 0, several.iou_scores[0, 0].argmax()][None]
    [[right, down]] = embedding.frame.place([(17.5, 30)])
    assert (right, down) == (31.5, 27.5)
    assert np.allclose(
        sam.decode(embedding, Spot(point=(17.5, 30))), embedding.frame.invert(best)[0, 0].numpy(), atol=1e-4
    )


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("kind", ["box", "point", "mask"])
def test_memory_carries_as_the_network_does_on_its_own(sams: Path, kind: str) -> None:
    """The slices are encoded beforehand and only counted in the session: the same as a film given to the network."""
    sam = load_sam(sams / "sam2", "sam2")
    images = np.random.default_rng(3).random((5, 64, 64)).astype(np.float32)
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 24:50] = True
    spot = {"box": Spot(box=((20, 24), (40, 50))), "point": Spot(point=(30, 37)), "mask": Spot(mask=mask)}[kind]
    found = sam.propagate([sam.encode(image) for image in images], 2, spot)
    assert found.shape == (5, 64, 64) and np.isfinite(found).all()

    from transformers import Sam2VideoInferenceSession, Sam2VideoModel

    oracle = Sam2VideoModel.from_pretrained(sams / "sam2").eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in (Pixels().mean, Pixels().std))
    film = (torch.from_numpy(images)[:, None] - mean) / std
    session = Sam2VideoInferenceSession(video=film, dtype=torch.float32)
    one = session.obj_id_to_idx(7)
    if kind == "mask":
        session.add_mask_inputs(one, 2, torch.from_numpy(mask)[None, None])
    else:
        points = [[23.5, 19.5], [49.5, 39.5]] if kind == "box" else [[36.5, 29.5]]
        labels = [2, 3] if kind == "box" else [1]
        told = {"point_coords": torch.tensor([[points]]), "point_labels": torch.tensor([[labels]])}
        session.add_point_inputs(one, 2, told)
    session.obj_with_new_inputs = [7]
    expected = {2: oracle(session, frame_idx=2).pred_masks}
    for reverse in (False, True):
        for frame in oracle.propagate_in_video_iterator(session, start_frame_idx=2, reverse=reverse):
            expected.setdefault(frame.frame_idx, frame.pred_masks)
    square = Frame((64, 64), (64, 64), 64)
    for number, logits in expected.items():
        assert np.allclose(found[number], square.invert(logits)[0, 0].numpy(), atol=1e-3), f"slice {number}"


@pytest.mark.usefixtures("silent")
def test_a_volume_goes_through_both(sams: Path, volume: Volume) -> None:
    for kind in ("sam2", "sam"):
        sam = load_sam(sams / kind, kind)  # type: ignore[arg-type]
        prior = filled(HELD)
        for asked in (sam, replace(sam, prompt_kind="point"), replace(sam, prompt_kind="mask")):
            for memory in (False, True) if kind == "sam2" else (False,):
                try:
                    box, mask = replace(asked, memory=memory).segment(volume, PROMPT, prior)
                except BadPrompt:  # random weights may well find nothing
                    continue
                assert mask.shape == box.shape and mask.any()
                assert box.start[0] >= 2 and box.stop[0] <= 7


@pytest.mark.usefixtures("silent")
def test_pictures_are_prepared_as_by_the_published_processor(sams: Path) -> None:
    processor = pytest.importorskip("transformers.models.sam.image_processing_pil_sam").SamImageProcessorPil()
    image = (np.random.default_rng(4).random((60, 80)) * 255).astype(np.uint8)
    expected = processor(np.stack([image] * 3, axis=-1), return_tensors="np")["pixel_values"][0]
    net = Drawn(square=False, side=1024)
    Sam(net).encode(image.astype(np.float32) / 255)
    difference = np.abs(net.seen[0][0].numpy() - expected)
    assert difference.max() < 0.03, "it rounds to 8 bits on the way"


# ---------------------------------------------------------------- what is not there, or not whole


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("name", "fetched"),
    [
        ("nobody/nothing", "nobody/nothing"),
        ("/no/such/folder", "facebook/sam2.1-hiera-tiny"),  # no name that the hub could have
        ("a/b/c", "facebook/sam2.1-hiera-tiny"),
    ],
)
def test_a_name_that_is_not_here_says_what_to_type(sams: Path, name: str, fetched: str) -> None:
    with pytest.raises(MissingWeights, match=rf"of sam2: '{name}' is neither a folder.* hf download {fetched}"):
        load_sam(name, "sam2")


def test_the_line_to_type_is_that_of_what_the_recipes_load() -> None:
    """``hf`` comes with transformers, and with the extra train."""
    pytest.importorskip("transformers", reason="needs pip install 'nodulens[sam]'")
    recipes = {recipe.prompted: recipe.checkpoint for recipe in (SAM2_DENSENET, NNUNET_SAM)}
    assert recipes == USUAL
    assert "hf" in {script.name for script in distribution("huggingface_hub").entry_points}


@pytest.mark.usefixtures("silent")
def test_a_name_that_was_fetched_is_found_again(sams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache of the hub's client, as ``hf download`` leaves it."""
    from huggingface_hub import constants

    name, cached = USUAL["sam2"], tmp_path / ("models--" + USUAL["sam2"].replace("/", "--"))
    shutil.copytree(sams / "sam2", cached / "snapshots" / "0a1b")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0a1b")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_sam(name, "sam2").sha256 == load_sam(sams / "sam2", "sam2").sha256


@pytest.mark.usefixtures("silent")
def test_the_hash_is_of_the_file_that_is_read(sams: Path, tmp_path: Path) -> None:
    """The hub holds the same weights in other formats beside it."""
    copy = shutil.copytree(sams / "sam", tmp_path / "sam")
    (copy / "pytorch_model.bin").write_bytes(b"the same for older programs")
    assert load_sam(copy, "sam").sha256 == load_sam(sams / "sam", "sam").sha256


@pytest.mark.usefixtures("silent")
def test_files_that_are_something_else_are_refused(sams: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptWeights, match="type 'sam2_video', not 'sam'"):
        load_sam(sams / "sam2", "sam")
    with pytest.raises(BadOption, match="'sam3'"):
        load_sam(sams / "sam2", "sam3")  # type: ignore[arg-type]
    with pytest.raises(MissingWeights, match=r"config\.json"):
        load_sam(tmp_path, "sam2")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptWeights, match="not JSON"):
        load_sam(tmp_path, "sam2")
    (tmp_path / "config.json").write_bytes((sams / "sam" / "config.json").read_bytes())
    with pytest.raises(CorruptWeights, match="cannot be read"):
        load_sam(tmp_path, "sam")


@pytest.mark.usefixtures("silent")
def test_missing_weights_are_never_made_up(sams: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in (sams / "sam").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    held = load_file(sams / "sam" / "model.safetensors")
    gone = next(name for name in held if "mask_decoder" in name)
    save_file({k: v for k, v in held.items() if k != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptWeights, match=rf"lacks 1 weights of SamModel: {gone}"):
        load_sam(tmp_path, "sam")


@pytest.mark.usefixtures("silent")
def test_sam2_without_memory_outlines_slices_alone(sams: Path, tmp_path: Path, volume: Volume) -> None:
    sam = load_sam(sams / "sam2", "sam2")
    sam.net.model.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2"
    alone = load_sam(tmp_path, "sam2")
    image = np.random.default_rng(5).random((40, 60)).astype(np.float32)
    spot = Spot(box=((10, 20), (25, 45)))
    assert np.allclose(alone.decode(alone.encode(image), spot), sam.decode(sam.encode(image), spot), atol=1e-5)
    with pytest.raises(BadOption, match="no memory"):
        replace(alone, memory=True).segment(volume, PROMPT)


@pytest.mark.usefixtures("silent")
def test_what_the_files_hold_decides(sams: Path, tmp_path: Path) -> None:
    assert (kind_of(sams / "sam2"), kind_of(sams / "sam")) == ("sam2", "sam")
    assert load_sam(sams / "sam2").net.remembers and not load_sam(sams / "sam").net.remembers
    assert load_sam(sams / "sam" / "model.safetensors").sha256 == load_sam(sams / "sam").sha256
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CorruptWeights, match="type 'bert'; prompted networks are SAM2, SAM and MedSAM"):
        kind_of(tmp_path)
    alone = tmp_path / "elsewhere" / "medsam_vit_b.pth"
    alone.parent.mkdir()
    alone.write_bytes(b"")
    with pytest.raises(MissingWeights, match=r"a file alone.* hf download facebook/sam2"):
        load_sam(alone)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("file", "text", "plain"),
    [
        (
            "README.md",
            "# ViT Base, fine-tuned\n[original MedSAM repository](https://github.com/bowang-lab/medsam)",
            True,
        ),
        ("README.md", "base_model: wanglab/medsam-vit-base", True),
        ("README.md", "# Segment Anything, ViT Base", False),
        ("README.md", "# MedSAM2, made of SAM2.1 tiny", False),
        ("config.json", "wanglab/medsam-vit-base", True),
        ("config.json", "facebook/sam-vit-base", False),
        ("preprocessor_config.json", "", True),
    ],
)
def test_medsam_is_known_by_what_its_files_say(sams: Path, tmp_path: Path, file: str, text: str, plain: bool) -> None:
    """The folder's name says nothing: MedSAM takes 0…1 as it is, whatever its processor file says."""
    folder = shutil.copytree(sams / "sam", tmp_path / ("weights" if plain else "medsam-vit-base"))
    held = json.loads((folder / file).read_text()) if file.endswith(".json") else {}
    more = {"config.json": {"_name_or_path": text}, "preprocessor_config.json": {"do_normalize": False}}
    (folder / file).write_text(json.dumps({**held, **more[file]}) if file in more else text)
    assert (load_sam(folder).pixels == PLAIN) is plain


def test_without_transformers_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"nodulens\[sam\]"):
        load_sam("facebook/sam2.1-hiera-tiny", "sam2")
