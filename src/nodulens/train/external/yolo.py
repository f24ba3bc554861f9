"""YOLO11-seg as a segmenter for comparison, in an environment of its own.

Our slices are exported in YOLO's format, every connected component of a nodule a polygon; ultralytics' trainer is used
unchanged; the trained network is imported as an ONNX file with a card, its last layers turning detections into a
probability of every pixel. Ultralytics is under the AGPL-3.0 and never imported here: the two environments exchange
only files; the script that runs in the other is :mod:`nodulens.train.external.yolo_inside`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from nodulens.errors import BadOption, NotFound
from nodulens.methods.catalogue import YOLO_SEG
from nodulens.methods.recipe import NetworkConfig, Recipe
from nodulens.methods.run_record import Run
from nodulens.ops.components import components
from nodulens.stages.slices import NODULE
from nodulens.train.external import environment, training, yolo_inside
from nodulens.train.external.dataset import case, cases, is_written, views, write_json
from nodulens.train.external.training import ExternalNetwork, Job, Trained, largest_difference, train_external
from nodulens.train.loop.export import TRAINED_ON
from nodulens.train.networks.registry import YOLO11
from nodulens.train.run import Division, RunSpec
from nodulens.train.tasks import segmentation
from nodulens.train.tasks.slice_material import Material

Bool = NDArray[np.bool_]

FREE = (
    "network",
    "size",
    "pixel_mm",
    "epochs",
    "batch",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "warm_up",
    "patience",
    "seed",
    "pretrained",
)
"""The settings that YOLO takes; it chooses all others by itself."""
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
STRIDE = 32
"""Pixels of the input for one of the coarsest map."""
INSET = 0.05
"""Pixels by which a polygon is inset from the faces of its component, see :func:`polygon`."""
MOST = 50
"""Detections that count on a slice, the highest score first. A nodule is detected some ten times."""
AT_A_TIME = 10
"""Number of masks computed at a time: all at once would take a gigabyte for some slices."""
LEAST = 0.01
"""Probabilities are clipped here, and as far from 1, so that logits are bounded. An untrained network is at this."""
TOLERANCE = 1e-3
"""Largest difference of a probability from that of ultralytics' own network, whose batch norms are fused, with scores
scaled to a maximum of 1."""
LOGIT_TOLERANCE = 0.02
"""Largest difference of the ONNX file's logits: at most 0.005 of a probability, and 0.0002 near :data:`LEAST`."""
AGPL = f"AGPL-3.0, which Ultralytics claims for what its program trains; {TRAINED_ON}"


@dataclass(frozen=True)
class Environment(environment.Environment):
    """A virtual environment with ultralytics."""

    TITLE = "YOLO"
    NAME = "yolo"
    REQUIREMENT = "ultralytics==8.4.190"
    SIGN = "yolo"
    INSIDE = yolo_inside.__file__

    def places(self, work: Path) -> dict[str, str]:
        """The folder of its settings: with its other files, not in the home folder."""
        return {"YOLO_CONFIG_DIR": str(work.resolve())}


# ---------------------------------------------------------------- what goes out


def write_dataset(material: Material, config: NetworkConfig, division: Division, work: Path) -> Path:
    """Write slices as a data set of YOLO: our networks' input as grey PNG files, each with its polygons.

    Only slices of the training and validation set are written. A step of 8 bits is 5.5 HU; inference does not round.

    Args:
        work: folder; the data set is written to ``data/`` in it.

    Returns:
        Its description, JSON with the extension of YAML. It is written last: if it exists, the data set is complete. It
        names the settings too, since a training with others cannot be resumed.

    Raises:
        BadOption: the folder holds another data set, or one for other settings.
    """
    folder, field = work / "data", segmentation.field_of(config)
    parts = {"train": division.train, "val": division.validation}
    description = {
        **{name: f"images/{name}" for name in parts},
        "names": [NODULE],
        "learner": {name: value for name, value in asdict(config).items() if name != "examples"},  # which YOLO decides
        "slices": {name: cases(material, rows) for name, rows in parts.items()},
    }
    known = folder / "data.yaml"
    if is_written(known, description):
        return known
    for part, rows in parts.items():
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for name, image, truth in views(material, field, rows):
            grey = np.rint(image * 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / "images" / part / f"{name}.png")
            label = folder / "labels" / part / f"{name}.txt"
            label.write_text("".join(f"{line}\n" for line in label_lines(truth[0])), encoding="utf-8")
    write_json(known, description)
    return known


def label_lines(mask: Bool) -> list[str]:
    """A mask (y, x) in YOLO's format: for every component class 0 and a polygon in fractions of the picture.

    Holes are filled, since a polygon has none; components that touch by a corner are two.
    """
    sides = mask.shape[::-1]
    parts = components(np.asarray(ndimage.binary_fill_holes(mask)), 4)
    lines = []
    for number, where in enumerate(parts.slices, start=1):
        corner = (where[1].start, where[0].start)
        shares = (polygon(parts.labels[where] == number) + corner) / sides
        lines.append(" ".join(["0", *(f"{share:.6f}" for share in shares.ravel())]))
    return lines


def polygon(part: Bool) -> NDArray[np.float64]:
    """The outline of a component along the faces of its pixels, :data:`INSET` inside them.

    YOLO takes the polygon's bounding box as the nodule's, which needs faces; and it fills the polygon, border included,
    after rounding its corners down to pixels, which needs corners inside the component. The inset satisfies both.

    Args:
        part: (y, x), one component by faces, without holes.

    Returns:
        (n, 2) corners x and y in pixels, the first pixel from 0 to 1; clockwise.
    """
    inside = np.pad(part, 1)
    onward: dict[tuple[int, int], tuple[int, int]] = {}
    # for each side of a pixel: offset of its neighbour (y, x), start and end of the side (x, y)
    for (down, right), (x0, y0), step in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (0, 1)),
        ((1, 0), (1, 1), (-1, 0)),
        ((0, -1), (0, 1), (0, -1)),
    ):
        beside = inside[1 + down : 1 + down + part.shape[0], 1 + right : 1 + right + part.shape[1]]
        onward.update({(x + x0, y + y0): step for y, x in np.argwhere(part & ~beside).tolist()})
    here = first = next(iter(onward))
    way: list[tuple[tuple[int, int], tuple[int, int]]] = []
    while not way or here != first:
        way.append((here, onward[here]))
        here = (here[0] + onward[here][0], here[1] + onward[here][1])
    out = []
    for (_, (bx, by)), ((x, y), (ax, ay)) in zip([way[-1], *way[:-1]], way, strict=True):
        if (bx, by) != (ax, ay):  # the inside is to the right: for a step (x, y) that is (−y, x)
            out.append((x - INSET * (by + ay), y + INSET * (bx + ax)))
    return np.array(out)


# ---------------------------------------------------------------- what comes back


class Outlines(ExternalNetwork):
    """A YOLO network as a segmenter: a probability for every pixel.

    A detection's probability is its score times its mask, times the share of the pixel that its box covers; a pixel's
    is that of its most probable detection. So no suppression is needed: a nodule detected twice is no more probable.

    Args:
        net: (N, 3, size, size) 0…1 → what :func:`nodulens.train.external.yolo_inside.export` says, an exported program.
        most: detections that count, the highest score first.

    Shape:
        input (N, 1, size, size) 0…1 over our window, output (N, 1, size, size) logits.
    """

    def __init__(self, net: nn.Module, size: int, most: int = MOST) -> None:
        super().__init__(net)
        self.size, self.most = size, most

    def forward(self, x: Tensor) -> Tensor:
        return self.probabilities(*self.net(x.expand(-1, 3, -1, -1))).clamp(LEAST, 1 - LEAST).logit()

    def probabilities(self, found: Tensor, prototypes: Tensor) -> Tensor:
        """The network's output as probabilities (N, 1, size, size).

        Args:
            found: (N, 4 + 1 + masks, places): centre x and y, width and height in pixels, score, mask coefficients.
            prototypes: (N, masks, height, width); a mask is the sigmoid of their weighted sum.
        """
        # in air many detections are equal: the first count, on every engine
        order = found[:, 4] - 1e-7 * torch.arange(found.shape[2])
        best = order.topk(min(self.most, found.shape[2]), dim=1).indices
        kept = found.transpose(1, 2).gather(1, best[..., None].expand(-1, -1, found.shape[1]))
        whole = torch.zeros_like(prototypes[:, :1, :1, :1])
        for some in kept.split(AT_A_TIME, dim=1):
            box, score, weights = some[..., :4], some[..., 4, None, None], some[..., 5:]
            masks = (weights @ prototypes.flatten(2)).unflatten(2, prototypes.shape[2:])
            masks = functional.interpolate(masks, (self.size, self.size), mode="bilinear").sigmoid()
            across, down = (covered(box[..., k], box[..., 2 + k], self.size) for k in (0, 1))
            of_each = masks * (score * down[..., None] * across[..., None, :])
            whole = torch.maximum(whole, of_each.amax(1, keepdim=True))
        return whole


def covered(centre: Tensor, width: Tensor, size: int) -> Tensor:
    """Share of each of ``size`` pixels that an interval covers; (…,) each → (…, size)."""
    pixel = torch.arange(size, dtype=centre.dtype)
    low, high = ((centre + sign * width / 2)[..., None] for sign in (-1, 1))
    return (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp(0, 1)


# ---------------------------------------------------------------- a run


def settled(config: NetworkConfig) -> NetworkConfig:
    """The config for YOLO; see :func:`nodulens.train.external.training.settled`.

    Raises:
        BadOption: also for a network or size that YOLO does not have.
        NotFound: the initial weights are no file; nothing is fetched.
    """
    assert YOLO_SEG.segmenter is not None
    wanted = training.settled(config, YOLO_SEG.segmenter, FREE, Environment.TITLE)
    if wanted.network not in YOLO11:
        raise BadOption(f"YOLO has no network {wanted.network!r} here; there are {', '.join(YOLO11)}.")
    if wanted.size % STRIDE:
        raise BadOption(f"YOLO halves its input five times: {wanted.size} pixels are no multiple of {STRIDE}.")
    if wanted.pretrained is not None and not (Path(wanted.pretrained).is_file() and wanted.pretrained.endswith(".pt")):
        raise NotFound(
            f"There is no .pt file {wanted.pretrained}. Nothing is fetched: name a file that you have, or leave "
            "out --set segmenter.pretrained to start from random weights."
        )
    return wanted


def train_yolo(recipe: Recipe, spec: RunSpec, environment: Environment, slices: int | None = None) -> Run:
    """Train a recipe whose segmenter is YOLO, and its other networks by our loop, into a run folder.

    Finished steps are kept, interrupted ones resumed. YOLO's own files and log are in ``yolo/``.

    Args:
        recipe: its segmenter :func:`settled`.
        spec: see :func:`nodulens.train.run.train_recipe`.
        slices: largest number, evenly spaced, for a trial; None: all.

    Raises:
        NotFound, BadOption, NodulensError: see :func:`nodulens.train.external.training.train_external`.
    """

    def make(job: Job) -> NetworkConfig:
        trained = _train(job, environment)
        _bring_back(job, environment, trained)
        return job.config

    return train_external(recipe, spec, environment, make, FREE, slices)


def _train(job: Job, environment: Environment) -> Path:
    """Write the data set, train YOLO on it, and return the folder of its files."""
    config, trained = job.config, job.work / "trained"
    known = write_dataset(job.material, config, job.division, job.work)
    wishes: dict[str, object] = {
        **{name: getattr(config, name) for name in ("network", "size", "batch", "epochs", "seed")},
        "patience": config.patience or 0,
        "optimizer": OPTIMIZERS[config.optimizer],
        "learning-rate": config.learning_rate,
        "weight-decay": config.weight_decay,
        "warm-up": config.warm_up * config.epochs,
    }
    if config.pretrained is not None:
        wishes["weights"] = Path(config.pretrained).resolve()
    options = [f"--{name}={value}" for name, value in wishes.items()]
    environment.step(job.work, "train", known.resolve(), trained.resolve(), *options)
    return trained


def _bring_back(job: Job, environment: Environment, trained: Path) -> None:
    """Export YOLO's network, checked against its own on a slice; copy checkpoint and curves."""
    work, config = job.work, job.config
    weights = trained / "weights" / ("last.pt" if config.patience is None else "best.pt")
    environment.step(work, "export", weights, work / "network.pt2", f"--size={config.size}")
    net = Outlines(torch.export.load(work / "network.pt2").module(), config.size)

    rows = job.examples()
    unit = job.material.examples(segmentation.field_of(config), rows)[0]
    np.save(work / "parity.npy", unit[0])
    environment.step(work, "predict", weights, work / "parity.npy", work / "parity.npz")
    with torch.inference_mode(), np.load(work / "parity.npz") as stored:
        own = net.net(torch.from_numpy(unit[:1])[:, None].expand(-1, 3, -1, -1))
        theirs = [torch.from_numpy(stored[name]) for name in ("found", "prototypes")]
        highest = theirs[0][:, 4].max()
        for found in (own[0], theirs[0]):  # so that a network with low scores is compared too
            found[:, 4] /= highest
        both = [net.probabilities(*pair).numpy() for pair in (own, theirs)]
    parity = {
        "largest": largest_difference(both[0], both[1], TOLERANCE, environment.TITLE),
        "tolerance": TOLERANCE,
        "score_taken_for_1": float(highest),
        "slice": case(job.material, rows[0]),
    }
    figures, settings = {"off_yolos_network": parity}, {"detections": net.most}
    job.bring_back(Trained(net, config, unit, figures, settings, AGPL, LOGIT_TOLERANCE))
    for name, suffix in ((weights, "pth"), (trained / "curves.csv", "csv"), (trained / "results.png", "png")):
        shutil.copyfile(name, job.folder / f"segmenter.{suffix}")
