"""SAM and SAM2: promptable networks that were not trained on nodules.

They are used without sessions: ``embedding = sam.encode(image)``, ``logits = sam.decode(embedding, spot)``. Pictures
are scaled and normalised here, as the published image processors do, since those need torchvision.

Sources: Kirillov et al. 2023 (SAM), Ma et al. 2024 (MedSAM), Ravi et al. 2024 (SAM2); the networks are those of
``transformers``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from nodulens.core.nodule import Box
from nodulens.core.volume import Volume
from nodulens.errors import BadOption, BadPrompt, CorruptWeights, MissingExtra, MissingWeights
from nodulens.ops.intensity import NETWORK_WINDOW, to_unit
from nodulens.stages.prompted import Outline, View, view_of
from nodulens.stages.prompts import ROUGH, Prompt, PromptKind
from nodulens.stages.segment import one_piece, prompted_component

Array = NDArray[np.float32]
Bool = NDArray[np.bool_]
Kind = Literal["sam2", "sam"]

CACHE_BYTES = 512 * 1024**2
"""Size of the embedding cache: 25 slices of SAM2, 128 of SAM."""
MASK_SCALE, MASK_SHIFT = 20.0, -10.0
"""A mask as logits: −10 outside, 10 inside, as SAM2 takes mask prompts."""
BOX_CORNERS = (2, 3)
"""Labels of a box's first and second corner when it is given as points."""
MEDSAM = re.compile(r"\bmed[-_]?sam\b", re.IGNORECASE)
"""How model cards and names of repositories write it; MedSAM2 is another network, which is normalised as SAM2 is."""
MEMORY_HEIGHT = 2.0
"""SAM2's memory follows a nodule given on one slice through so many times the height that is expected: it knows where a
nodule ends, whereas a slice prompted by itself always shows something."""
FILES = ("*.json", "*.safetensors", "README.md")
USUAL: dict[Kind, str] = {"sam2": "facebook/sam2.1-hiera-tiny", "sam": "facebook/sam-vit-base"}
"""The smallest published weights of each kind."""


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation that normalise a picture 0…1, for each of three channels."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


PLAIN = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Spot:
    """A prompt on one picture. Faces are continuous indices (y, x): pixel 0 reaches from 0 to 1.

    Attributes:
        box: faces of its corners, ((y, x), (y, x)).
        point: a position in the nodule.
        mask: (y, x) bool, an earlier outline.
    """

    box: tuple[tuple[float, float], tuple[float, float]] | None = None
    point: tuple[float, float] | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Frame:
    """The placement of a picture in the square input of an encoder.

    Attributes:
        shape: of the picture (y, x).
        scaled: its scaled size, in the square's first corner; the rest is 0.
        side: of the square.
    """

    shape: tuple[int, int]
    scaled: tuple[int, int]
    side: int

    def place(self, faces: Sequence[tuple[float, float]]) -> list[list[float]]:
        """Faces (y, x) of the picture in the encoder's coordinates [x, y], integers at pixel centres."""
        down, right = (s / n for s, n in zip(self.scaled, self.shape, strict=True))
        return [[x * right - 0.5, y * down - 0.5] for y, x in faces]

    def fill(self, picture: Tensor) -> Tensor:
        """(1, C, y, x) → (1, C, side, side)."""
        scaled = _scaled(picture, self.scaled)
        down, right = (self.side - n for n in self.scaled)
        return functional.pad(scaled, (0, right, 0, down))

    def invert(self, logits: Tensor) -> Tensor:
        """(1, C, h, w) over the square → (1, C, y, x) over the picture."""
        if self.scaled != (self.side, self.side):
            logits = _scaled(logits, (self.side, self.side))[..., : self.scaled[0], : self.scaled[1]]
        return _scaled(logits, self.shape)


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embedding of one picture.

    Attributes:
        maps: of its features, finest first.
        places: positional encoding of the coarsest map, for SAM2's memory; None without one.
    """

    maps: tuple[Tensor, ...]
    places: Tensor | None
    frame: Frame

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(m.nbytes for m in self.maps) + (0 if self.places is None else self.places.nbytes)


class Embeddings:
    """A cache of embeddings; beyond ``most_bytes`` the least recently used is dropped."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.kept: OrderedDict[bytes, Embedding] = OrderedDict()

    def of(self, image: Array, pixels: Pixels, encode: Callable[[], Embedding]) -> Embedding:
        """The embedding of a picture, encoded unless it is cached."""
        key = hashlib.sha256(f"{image.shape} {pixels}".encode() + image.tobytes()).digest()
        found = self.kept.pop(key, None) or encode()
        self.kept[key] = found
        while sum(e.size for e in self.kept.values()) > self.most_bytes and len(self.kept) > 1:
            self.kept.popitem(last=False)
        return found


Embed = Callable[[int], Embedding]
"""From the number of a slice to its embedding."""


class Net(Protocol):
    """A promptable network, SAM or SAM2."""

    side: int
    square: bool
    """Whether pictures are stretched to the square, or keep their aspect ratio and are padded."""
    remembers: bool
    """Whether it can :meth:`carry` an outline from slice to slice."""

    def encode(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """(1, 3, side, side) → :attr:`Embedding.maps` and ``places``."""

    def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
        """Logits (n, h, w) of one mask, or of several if ``many``, and the predicted IoU of each (n,)."""

    def carry(self, embed: Embed, count: int, at: int, spot: dict[str, Tensor]) -> Mapping[int, Tensor]:
        """Logits (h, w) by slice: slice ``at`` of ``count`` from ``spot``, the others from the memory of the preceding
        ones, up and down until nothing is left of the outline; what lies beyond is not looked at."""


@dataclass(frozen=True, eq=False)
class Sam:
    """A promptable network, and how it is prompted; change that with :func:`dataclasses.replace`.

    Attributes:
        net: the network.
        pixels: the normalisation of its pictures.
        prompt_kind: kind of prompt: the prompt's box, the box's centre, or an earlier mask alone.
        memory: prompt one slice and propagate the mask by SAM2's memory; else prompt each slice.
        window: HU that are black and white; None: the lowest and the highest of the scan, as method A's publication has
            it.
        view: the field of view; ``functools.partial(view_of, part="crop")`` is a close crop.
        cache: of embeddings; copies by :func:`dataclasses.replace` share it.
        sha256: of the weights.
    """

    net: Net
    pixels: Pixels = Pixels()
    prompt_kind: PromptKind = "box"
    memory: bool = False
    window: tuple[float, float] | None = NETWORK_WINDOW
    view: View = view_of
    cache: Embeddings = field(default_factory=Embeddings)
    sha256: str = ""

    def network(self, prompt_kind: PromptKind, prior: Bool | None) -> Outline:
        """:meth:`segment` by another kind of prompt; a :data:`nodulens.stages.prompted.PromptedNetwork`."""
        return partial(replace(self, prompt_kind=prompt_kind).segment, prior=prior)

    def segment(self, volume: Volume, prompt: Prompt, prior: Bool | None = None) -> tuple[Box, Bool]:
        """Segment the nodule at a prompt.

        All slices of a prompt in three dimensions are prompted alike; with memory only the middle one, or that where
        the earlier mask is largest. A prompt on one slice (:attr:`nodulens.stages.prompts.Prompt.flat`) prompts that
        slice. From there memory goes on up and down, or each slice is prompted by the box of the outline on the one
        before: as long as there is something, in the height of the prompt; for a point, in a height that equals the
        sides of the outline on its slice.

        Args:
            volume: canonical orientation; its grey values are those of :attr:`window`.
            prompt: in face indices of the volume.
            prior: an earlier mask on the volume's grid, for ``prompt_kind="mask"``.

        Returns:
            A box inside the volume and the mask in it, in one piece and without holes.

        Raises:
            BadPrompt: nothing is found, the prompt is outside the scan, or the earlier mask is missing or empty.
            BadOption: ``memory`` is set, and the network has none.
        """
        if prompt.flat:
            return self._from_one_slice(volume, prompt, prior)
        where = self.view(volume, prompt)
        spots, embed = self._spots(prompt, where, prior), self._embedded(volume, where)
        if self.memory:
            at = _most(spots) if self.prompt_kind == "mask" else len(spots) // 2
            logits = self._propagated(embed, len(spots), at, spots[at])
        else:
            blank = np.full(where.shape[1:], MASK_SHIFT, dtype=np.float32)
            logits = np.stack([blank if _empty(s) else self.decode(embed(k), s) for k, s in enumerate(spots)])
        return prompted_component(volume, prompt, where, logits)

    def _from_one_slice(self, volume: Volume, prompt: Prompt, prior: Bool | None) -> tuple[Box, Bool]:
        """The nodule at a prompt on one slice, see :meth:`segment`."""
        z = int(np.clip((prompt.start[0] + prompt.stop[0]) // 2, 0, volume.geometry.shape[0] - 1))
        flat, spacing = prompt.on_slice(z), volume.geometry.spacing_zyx
        whole = prompt
        if self.prompt_kind == "point":
            found = prompted_component(volume, flat, *self._alone(volume, flat, prior))[0]
            whole = Prompt.between(found.start, found.stop, ROUGH).raised(spacing)
        if self.memory:
            whole = whole.heightened(MEMORY_HEIGHT)
        where = self.view(volume, whole)
        at = int(np.clip(z - where.start[0], 0, where.shape[0] - 1))
        (spot,) = self._spots(flat, Box.between((z, *where.start[1:]), (z + 1, *where.stop[1:])), prior)
        go = self._propagated if self.memory else self._followed
        logits = go(self._embedded(volume, where), where.shape[0], at, spot)
        return prompted_component(volume, whole, where, logits)

    def _alone(self, volume: Volume, prompt: Prompt, prior: Bool | None) -> tuple[Box, Array]:
        """The view of a prompt of one slice, and the logits (1, y, x) there."""
        where = self.view(volume, prompt)
        (spot,) = self._spots(prompt, where, prior)
        return where, self.decode(self._embedded(volume, where)(0), spot)[None]

    def _followed(self, embed: Embed, count: int, at: int, spot: Spot) -> Array:
        """Logits (count, y, x): slice ``at`` from its prompt, each next one from the box of the outline before it."""
        first = self.decode(embed(at), spot)
        logits = np.full((count, *first.shape), MASK_SHIFT, dtype=np.float32)
        logits[at] = first
        begun = _piece_at(first > 0, spot)
        for step in (-1, 1):
            before, k = begun, at + step
            while 0 <= k < count and before.any():
                found = self.decode(embed(k), _spot_of_box(Box.of_mask(before[None])))
                before = _going_on(found > 0, before)
                logits[k] = np.where(before, found, np.float32(MASK_SHIFT))
                k += step
        return logits

    def _embedded(self, volume: Volume, where: Box) -> Embed:
        """The embeddings of the slices of a view, each made when it is asked for."""
        window = self.window or (float(volume.hu.min()), float(volume.hu.max()))
        return lambda k: self.encode(to_unit(volume.hu[where.slices][k], window))

    def encode(self, image: Array) -> Embedding:
        """The embedding of a picture (y, x) float32 0…1, from the cache if it is there."""
        return self.cache.of(image, self.pixels, lambda: self._encoded(image))

    @torch.inference_mode()
    def decode(self, embedding: Embedding, spot: Spot) -> Array:
        """Logits (y, x) at a prompt, above 0 inside.

        A point is ambiguous, so of three masks the one with the highest predicted IoU is taken; a box or a mask is not,
        and gives one mask.
        """
        many = spot.point is not None and spot.box is None
        logits, fit = self.net.decode(embedding.maps, self._inputs(embedding.frame, spot), many)
        best = logits[fit.argmax()][None, None]
        return embedding.frame.invert(best.float())[0, 0].cpu().numpy()

    @torch.inference_mode()
    def propagate(self, embeddings: Sequence[Embedding], at: int, spot: Spot) -> Array:
        """Logits (z, y, x): the slice ``at`` from its prompt, and the others propagated by memory in both directions,
        as long as something is left of the outline; −10 beyond.

        Raises:
            BadOption: the network has no memory.
        """
        return self._propagated(embeddings.__getitem__, len(embeddings), at, spot)

    @torch.inference_mode()
    def _propagated(self, embed: Embed, count: int, at: int, spot: Spot) -> Array:
        """:meth:`propagate` through slices that are embedded as far as the outline reaches."""
        frame = embed(at).frame
        found = self.net.carry(embed, count, at, self._inputs(frame, spot))
        logits = np.full((count, *frame.shape), MASK_SHIFT, dtype=np.float32)
        for k, one in found.items():
            logits[k] = frame.invert(one[None, None].float())[0, 0].cpu().numpy()
        return logits

    @torch.inference_mode()
    def _encoded(self, image: Array) -> Embedding:
        side = self.net.side
        scale = side / max(image.shape)
        size = (side, side) if self.net.square else tuple(max(int(n * scale + 0.5), 1) for n in image.shape)
        frame = Frame((image.shape[0], image.shape[1]), (size[0], size[1]), side)
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.pixels.mean, self.pixels.std))
        picture = (torch.from_numpy(np.ascontiguousarray(image))[None, None] - mean) / std
        maps, places = self.net.encode(frame.fill(picture))
        return Embedding(maps, places, frame)

    def _spots(self, prompt: Prompt, where: Box, prior: Bool | None) -> list[Spot]:
        """The prompt on each slice of the view."""
        if self.prompt_kind == "mask":
            if prior is None or not prior[where.slices].any():
                raise BadPrompt(
                    "A mask prompt needs an earlier mask of the nodule: pass prior=, or prompt by box or point."
                )
            return [Spot(mask=plane) for plane in prior[where.slices]]
        start, stop = np.asarray(prompt.start)[1:] - where.start[1:], np.asarray(prompt.stop)[1:] - where.start[1:]
        start, stop = np.maximum(start, 0), np.minimum(stop, where.shape[1:])
        (top, left), (bottom, right) = start.tolist(), stop.tolist()
        if self.prompt_kind == "box":
            return [Spot(box=((top, left), (bottom, right)))] * where.shape[0]
        y, x = (np.add(prompt.start, prompt.stop) / 2)[1:] - where.start[1:]
        return [Spot(point=(float(y), float(x)))] * where.shape[0]

    def _inputs(self, frame: Frame, spot: Spot) -> dict[str, Tensor]:
        """The spot as inputs of the networks of ``transformers``."""
        inputs = {}
        if spot.box is not None:
            inputs["input_boxes"] = torch.tensor(frame.place(spot.box)).reshape(1, 1, 4)
        if spot.point is not None:
            inputs["input_points"] = torch.tensor(frame.place([spot.point])).reshape(1, 1, 1, 2)
            inputs["input_labels"] = torch.ones(1, 1, 1, dtype=torch.int32)
        if spot.mask is not None:
            inputs["input_masks"] = frame.fill(torch.from_numpy(spot.mask.astype(np.float32))[None, None])
        return inputs


def _scaled(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resample linearly, with averaging when downscaling; outer faces are aligned."""
    return functional.interpolate(picture, shape, mode="bilinear", align_corners=False, antialias=True)


def _spot_of_box(box: Box) -> Spot:
    """The faces of a box on one slice."""
    (_, top, left), (_, bottom, right) = box.start, box.stop
    return Spot(box=((top, left), (bottom, right)))


def _piece_at(mask: Bool, spot: Spot) -> Bool:
    """The component of a mask (y, x) at its prompt; nothing of an empty mask."""
    faces = spot.box or (spot.point,)
    middle = np.argwhere(spot.mask).mean(axis=0) if spot.mask is not None else np.mean(np.array(faces), axis=0) - 0.5
    piece = one_piece(mask, middle)
    return mask if piece is None else piece


def _going_on(mask: Bool, before: Bool) -> Bool:
    """The components of a mask (y, x) that overlap the outline on the slice before."""
    parts, _ = ndimage.label(mask)
    return np.isin(parts, np.unique(parts[before & mask])) & mask


def _empty(spot: Spot) -> bool:
    return spot.mask is not None and not spot.mask.any()


def _most(spots: Sequence[Spot]) -> int:
    """The slice where the earlier mask is largest."""
    return int(np.argmax([spot.mask.sum() for spot in spots if spot.mask is not None]))


# ---------------------------------------------------------------- the networks


class _Sam:
    """SAM, and MedSAM."""

    square = False
    remembers = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.side = int(model.config.vision_config.image_size)

    def encode(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        return (self.model.get_image_embeddings(pixels.to(self.model.device)),), None

    def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
        return _decoded(self.model, maps[0], spot, many)

    def carry(self, embed: Embed, count: int, at: int, spot: dict[str, Tensor]) -> Mapping[int, Tensor]:
        raise BadOption("SAM has no memory to carry an outline with; take SAM2, or prompt each slice.")


class _Sam2:
    """SAM2: a network for single pictures, and one with memory that shares its encoder."""

    square = True

    def __init__(self, model: Any, memory: Any | None) -> None:
        self.model, self.memory, self.remembers = model, memory, memory is not None
        self.side = int(model.config.prompt_encoder_config.image_size)

    def encode(self, pixels: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        found = self.model.get_image_features(pixels.to(self.model.device))
        return tuple(found.fpn_hidden_states), found.fpn_position_encoding[-1]

    def decode(self, maps: tuple[Tensor, ...], spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
        sizes = self.model.backbone_feature_sizes
        squares = [m.permute(1, 2, 0).reshape(1, -1, *size) for m, size in zip(maps, sizes, strict=True)]
        squares[-1] = squares[-1] + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
        return _decoded(self.model, squares, spot, many)

    def carry(self, embed: Embed, count: int, at: int, spot: dict[str, Tensor]) -> Mapping[int, Tensor]:
        if self.memory is None:
            raise BadOption(
                "These weights of SAM2 hold no memory; take a published checkpoint such as facebook/sam2.1-hiera-tiny, "
                "or prompt each slice."
            )
        session = self._session(count)
        one = session.obj_id_to_idx(1)
        if "input_masks" in spot:
            session.add_mask_inputs(one, at, (spot["input_masks"] >= 0.5).float())
        else:
            session.add_point_inputs(one, at, _as_points(spot))
        session.obj_with_new_inputs = [1]

        def step(k: int, *, down: bool) -> Tensor:
            """One slice, as the library's own way through a film takes it, with an embedding that is made only now."""
            assert self.memory is not None
            embedding = embed(k)
            features = {"vision_feats": list(embedding.maps), "vision_pos_embeds": [embedding.places]}
            session.cache.cache_vision_features(k, features)
            mask: Tensor = self.memory(session, frame_idx=k, reverse=down).pred_masks[0, 0]
            return mask

        found = {at: step(at, down=False)}
        for down, order in ((False, range(at + 1, count)), (True, range(at - 1, -1, -1))):
            for k in order:
                if not (found[k + 1 if down else k - 1] > 0).any():
                    break
                found[k] = step(k, down=down)
        return found

    def _session(self, count: int) -> Any:
        """The inference session of the network with memory for so many slices."""
        from transformers import Sam2VideoInferenceSession

        device = self.model.device
        return Sam2VideoInferenceSession(
            video=torch.empty(count, 0),
            inference_device=device,
            inference_state_device=device,
            dtype=torch.float32,
        )


def _decoded(model: Any, embeddings: Any, spot: dict[str, Tensor], many: bool) -> tuple[Tensor, Tensor]:
    inputs = {name: value.to(model.device) for name, value in spot.items()}
    if "input_masks" in inputs:
        side = embeddings[-1].shape[-1] * 4
        inputs["input_masks"] = _scaled(inputs["input_masks"], (side, side)) * MASK_SCALE + MASK_SHIFT
    found = model(image_embeddings=embeddings, multimask_output=many, **inputs)
    return found.pred_masks[0, 0], found.iou_scores[0, 0]


def _as_points(spot: dict[str, Tensor]) -> dict[str, Tensor]:
    """A box as its two corners, as the network with memory takes it; a point unchanged."""
    if "input_boxes" not in spot:
        return {"point_coords": spot["input_points"], "point_labels": spot["input_labels"]}
    labels = torch.tensor(BOX_CORNERS, dtype=torch.int32).reshape(1, 1, 2)
    return {"point_coords": spot["input_boxes"].reshape(1, 1, 2, 2), "point_labels": labels}


# ---------------------------------------------------------------- weights


def load_sam(checkpoint: str | Path, kind: Kind | None = None, *, download: bool = False) -> Sam:
    """Load SAM2 or SAM from files in the published format, onto the GPU if there is one.

    Args:
        checkpoint: a folder with ``config.json`` and ``model.safetensors``, or a name on the hub, such as
            "facebook/sam2.1-hiera-tiny", "facebook/sam-vit-base" or "wanglab/medsam-vit-base".
        kind: "sam2", or "sam" (MedSAM is one), if no other will do; None for what the files say.
        download: fetch a hub name that is not on this machine yet. Without it the network is never used.

    Raises:
        MissingExtra: ``transformers`` is not installed.
        MissingWeights: neither a folder nor a hub name whose files are here; the message says what to do.
        CorruptWeights: the files are incomplete, or of another network.
        BadOption: an unknown kind.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtra("sam", "transformers") from None
    if kind not in (None, "sam2", "sam"):
        raise BadOption(f"Prompted networks are 'sam2' and 'sam', not {kind!r}.")
    folder = _folder(str(checkpoint), kind, download)
    config = _json(folder / "config.json")
    if kind not in (None, _kind(folder, config)):
        raise CorruptWeights(f"{folder} holds a network of type {config.get('model_type')!r}, not {kind!r}.")
    if _kind(folder, config) == "sam":
        net: Net = _Sam(_read(transformers.SamModel, folder, None))
    else:
        net = _Sam2(*_read_sam2(transformers, folder, config))
    return Sam(net, PLAIN if _is_medsam(folder, config) else _pixels(folder), sha256=_hash(folder))


def kind_of(checkpoint: str | Path) -> Kind:
    """What the files of a checkpoint hold; :func:`load_sam` takes the same, and nothing is fetched.

    Raises:
        MissingWeights, CorruptWeights: as :func:`load_sam`.
    """
    folder = _folder(str(checkpoint), None, download=False)
    return _kind(folder, _json(folder / "config.json"))


def _kind(folder: Path, config: dict[str, Any]) -> Kind:
    kinds: dict[object, Kind] = {"sam2": "sam2", "sam2_video": "sam2", "sam": "sam"}
    found = config.get("model_type")
    if found not in kinds:
        raise CorruptWeights(f"{folder} holds a network of type {found!r}; prompted networks are SAM2, SAM and MedSAM.")
    return kinds[found]


def _is_medsam(folder: Path, config: dict[str, Any]) -> bool:
    """Whether what comes with the weights says that they are MedSAM, or were made from it.

    Network and configuration are SAM's own, and its processor file is SAM's too, although it was trained on pictures
    0…1 without normalisation (MedSAM's own inference script). What tells them apart is the model card, or the name that
    ``transformers`` keeps of where weights came from.
    """
    card = folder / "README.md"
    words = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    return bool(MEDSAM.search(f"{config.get('_name_or_path', '')}\n{words}"))


def _read_sam2(transformers: Any, folder: Path, config: dict[str, Any]) -> tuple[Any, Any | None]:
    """The network for single pictures and, if the files have it, the one with memory, sharing the encoder."""
    # A published file is of the network with memory; the tensors of the one for pictures have the same names in it.
    parts = {
        name: dict(config.get(name) or {}) for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    for name in ("prompt_encoder_config", "mask_decoder_config"):
        parts[name].pop("model_type", None)
    model = _read(transformers.Sam2Model, folder, transformers.Sam2Config(**parts))
    if config["model_type"] != "sam2_video":
        return model, None
    memory = _read(transformers.Sam2VideoModel, folder, None)
    memory.vision_encoder = model.vision_encoder
    return model, memory


def _read(kind: Any, folder: Path, config: Any | None) -> Any:
    """A network with all its weights, or an error: the library itself would initialise missing ones at random."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    options = {"local_files_only": True, "output_loading_info": True, "dtype": torch.float32}
    try:
        model, found = kind.from_pretrained(folder, config=config, **options)
    except Exception as error:  # each library that reads the file has its own errors
        raise CorruptWeights(f"{folder} cannot be read as {kind.__name__}: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(found["missing_keys"])
    if missing:
        some = ", ".join(missing[:3])
        raise CorruptWeights(f"{folder} lacks {len(missing)} weights of {kind.__name__}: {some}, ... Fetch it again.")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _folder(name: str, kind: Kind | None, download: bool) -> Path:
    """The folder of the files: the one named, that of a file of them, or the hub client's cache of that name."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        if (Path(name).parent / "config.json").is_file():
            return Path(name).parent
        raise MissingWeights(
            f"{name} is a file alone, as the networks' own repositories give it; what is read is a folder with "
            f"config.json and model.safetensors. Fetch one: hf download {USUAL[kind or 'sam2']}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(name, local_files_only=not download, allow_patterns=list(FILES)))
        if not any(
            folder.glob("*.safetensors")
        ):  # older repositories have a PyTorch file alone; it is read as tensors only
            files = [*FILES, "pytorch_model.bin"]
            folder = Path(snapshot_download(name, local_files_only=not download, allow_patterns=files))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        known = USUAL[kind or "sam2"] if isinstance(error, HFValidationError) else name
        failed = f" Fetching it failed: {_line(error)}." if download else ""
        raise MissingWeights(
            f"No weights of {kind or 'SAM'}: {name!r} is neither a folder here (config.json and model.safetensors) "
            f"nor a hub name in {HF_HUB_CACHE}.{failed} Fetch them once: hf download {known}."
        ) from error
    return folder


def _pixels(folder: Path) -> Pixels:
    """The normalisation of pictures, from the processor file beside the weights; ImageNet's without one."""
    file = folder / "preprocessor_config.json"
    inputs = _json(file) if file.is_file() else {}
    if not inputs.get("do_normalize", True):
        return PLAIN
    usual = Pixels()
    mean, std = inputs.get("image_mean") or usual.mean, inputs.get("image_std") or usual.std
    return Pixels((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _json(file: Path) -> dict[str, Any]:
    """A file of the published format, which is Hugging Face's, so no record of ours."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingWeights(f"{file.parent} holds no {file.name}; give a folder in the published format.") from None
    except ValueError as error:
        raise CorruptWeights(f"{file} is not JSON: {_line(error)}.") from error
    if not isinstance(found, dict):
        raise CorruptWeights(f"{file} is not a JSON object.")
    return found


def _hash(folder: Path) -> str:
    """SHA-256 of the weight files, concatenated if there are several."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with file.open("rb") as stream:
            while piece := stream.read(1 << 24):
                found.update(piece)
    return found.hexdigest()


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
