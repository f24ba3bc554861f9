"""How well a classifier distinguishes rendered nodules from real ones: ``python -m experiments.realness --data DIR``.

Each real nodule of the stacks is paired with one rendered from the same outline and ratings into another patient's
stack, away from the nodule there, in the grey levels of the slice. Positions are matched by noise, pixel size, and the
amount of dense tissue around. Both patients of a pair are of one fold, and each fold is evaluated with classifiers that
were not trained on it. An AUC of 0.5 is chance; the AUC from the surroundings alone is also given.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional

from nodulens.core.geometry import Geometry
from nodulens.core.volume import Source, Volume
from nodulens.data.folds import FOLDS, fold_of
from nodulens.data.material import CROP_STEPS, Stacks
from nodulens.data.render import render
from nodulens.data.shapes import Shape, stack_shapes
from nodulens.metrics.classification import auc_by_group, delong
from nodulens.metrics.statistics import Groups, Interval

PX = 32
"""Side of the patches that are classified, in pixels of the scan."""
SIZES_MM = (4.0, 20.0)
JITTER_PX = 2
EPOCHS = 40
"""A dozen are too few: the network is still improving then."""
LEVEL_HU = 12.0
"""Largest distance to a grey level of the slice; values farther away are beyond all its levels."""
HOSTS, PLACES = 12, 6
"""Stacks searched for a position like that of the real nodule, and positions in each."""


@dataclass(frozen=True, eq=False)
class Host:
    """A nodule in its stack: the real one, and room beside it for a rendered one.

    Attributes:
        hu: (slices, 96, 96).
        outlined: (96, 96), where any reader drew anything on any slice.
        shape: outline and ratings.
        thickness_mm: of the slices.
    """

    hu: NDArray[np.float32]
    outlined: NDArray[np.bool_]
    shape: Shape
    thickness_mm: float

    @property
    def pixel_mm(self) -> float:
        return self.shape.spacing_zyx[1]

    @property
    def largest(self) -> int:
        """The slice on which the nodule is largest."""
        return int(self.shape.body.sum(axis=(1, 2)).argmax())

    @cached_property
    def dense(self) -> NDArray[np.bool_]:
        """(slices, 96, 96): tissue rather than lung."""
        return np.asarray(ndimage.gaussian_filter(self.hu, (0, 1, 1)) > -500)

    @cached_property
    def noise(self) -> float:
        """Logarithm of the noise in its lung."""
        middle = self.hu[len(self.hu) // 2]
        smooth = ndimage.gaussian_filter(middle, 2)
        rest = np.abs(middle - smooth)[smooth < -700]
        return float(np.log(np.median(rest) + 3)) if len(rest) > 200 else 2.5

    def near(self, z: int, centre: NDArray[np.float64], radius_mm: float) -> tuple[float, float]:
        """Share of dense pixels in a disc, and in the ring 1…6 mm around it."""
        y, x = np.ogrid[:96, :96]
        away = np.hypot(y - centre[0], x - centre[1]) * self.pixel_mm
        ring = (away > radius_mm + 1) & (away < radius_mm + 6)
        return float(self.dense[z][away < max(radius_mm, 1)].mean()), float(self.dense[z][ring].mean())


@dataclass(frozen=True, eq=False)
class Pairs:
    """Real nodules and rendered ones.

    Attributes:
        real, rendered: (N, 32, 32) uint8, as :data:`nodulens.data.material.CROP_STEPS`.
        shapes: of each pair.
        context: (N, 32, 32) bool, what lies well outside the nodule.
    """

    real: NDArray[np.uint8]
    rendered: NDArray[np.uint8]
    shapes: tuple[Shape, ...]
    context: NDArray[np.bool_]

    def cases(self, blank: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.int_], NDArray[np.int_]]:
        """All patches, 1 for rendered ones, and their folds; the nodules blanked out on demand."""
        images = np.concatenate([self.real, self.rendered])
        if blank:
            images = np.where(np.concatenate([self.context] * 2), images, 20).astype(np.uint8)
        fold = np.array([fold_of(s.patient) for s in self.shapes] * 2)
        return images, np.repeat([0, 1], len(self.shapes)), fold


def hosts(data: Path) -> tuple[Host, ...]:
    """Nodules of two readers or more within :data:`SIZES_MM`."""
    stacks = Stacks(data)
    out = []
    for n, shape in stack_shapes(stacks).items():
        if stacks.readers(n) >= 2 and SIZES_MM[0] <= shape.diameter_mm <= SIZES_MM[1]:
            out.append(Host(stacks.hu(n), np.asarray(stacks.outlined(n).any(axis=0)), shape, stacks.thickness_mm(n)))
    return tuple(out)


def make_pairs(everyone: tuple[Host, ...], most: int | None = None, seed: int = 0) -> Pairs:
    """Render a twin of each nodule (of ``most`` at random) that a like place is found for."""
    rng = np.random.default_rng(seed)
    real, rendered, shapes, context = [], [], [], []
    for number in rng.permutation(len(everyone))[:most]:
        own = everyone[number]
        z = own.largest
        centre = np.asarray(ndimage.center_of_mass(own.shape.body[z]))
        radius = float(np.sqrt(own.shape.body[z].sum() / np.pi)) * own.pixel_mm
        first = _corner(centre, rng)
        place = _like_place(own, everyone, own.near(z, centre, radius)[1], radius, rng)
        if first is None or place is None:
            continue
        host, twin_centre, corner = place
        real.append(_patch(own.hu[z], first))
        rendered.append(_patch(_with_twin(host, own.shape, twin_centre, int(rng.integers(2**31))), corner))
        shapes.append(own.shape)
        y, x = np.ogrid[:PX, :PX]
        reach = radius / min(own.pixel_mm, host.pixel_mm) + JITTER_PX + 4
        context.append(np.hypot(y - PX / 2, x - PX / 2) > reach)
    return Pairs(np.stack(real), np.stack(rendered), tuple(shapes), np.stack(context))


def _corner(centre: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int_] | None:
    """The corner of a patch with this centre near its middle; None where it would not lie in the stack."""
    corner = np.round(centre + rng.uniform(-JITTER_PX, JITTER_PX, 2)).astype(int) - PX // 2
    return corner if bool(((corner >= 0) & (corner <= 96 - PX)).all()) else None


def _patch(hu: NDArray[np.float32], corner: NDArray[np.int_]) -> NDArray[np.uint8]:
    cut = hu[corner[0] : corner[0] + PX, corner[1] : corner[1] + PX]
    return CROP_STEPS.steps(cut)


def _like_place(
    own: Host, everyone: tuple[Host, ...], wanted: float, radius: float, rng: np.random.Generator
) -> tuple[Host, NDArray[np.float64], NDArray[np.int_]] | None:
    """Another stack of the fold, a place on its middle slice with as much tissue near, and the patch around it."""
    best, found = 0.15, None
    alike = [
        h
        for h in everyone
        if h.shape.patient != own.shape.patient
        and fold_of(h.shape.patient) == fold_of(own.shape.patient)
        and abs(h.noise - own.noise) < 0.3
        and 0.75 < h.pixel_mm / own.pixel_mm < 1.33
    ]
    for number in rng.permutation(len(alike))[:HOSTS]:
        host = alike[number]
        for centre in rng.uniform(PX / 2, 96 - PX / 2, (PLACES, 2)):
            corner = _corner(centre, rng)
            if corner is None or host.outlined[corner[0] : corner[0] + PX, corner[1] : corner[1] + PX].any():
                continue
            inside, around = host.near(len(host.hu) // 2, centre, radius)
            if inside <= 0.25 and abs(around - wanted) < best:
                best, found = abs(around - wanted), (host, centre, corner)
    return found


def _with_twin(host: Host, shape: Shape, centre: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """The middle slice of a host with a nodule rendered into it, (96, 96) HU."""
    grid = Geometry.axial((len(host.hu), 96, 96), host.shape.spacing_zyx)
    volume = Volume(host.hu, grid, Source(slice_thickness_mm=host.thickness_mm))
    z = len(host.hu) // 2
    x, y, height = (float(v) for v in grid.to_lps((z, *centre)))
    made = render(volume, shape, (x, y, height), seed=seed)
    image = host.hu[z].copy()
    image[made.box.slices[1:]] = _levelled(made.piece.hu[z - made.box.start[0]], np.unique(host.hu[z]))
    return image


def _levelled(hu: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest of a slice's own levels, unless that is farther than :data:`LEVEL_HU`.

    The stacks came from 8-bit pictures scaled slice by slice: most slices lack one of the steps of 8 HU here and there.
    A nodule that has them all is known by that alone.
    """
    above = np.clip(np.searchsorted(levels, hu), 1, len(levels) - 1)
    near = np.where(hu - levels[above - 1] < levels[above] - hu, levels[above - 1], levels[above])
    return np.where(np.abs(near - hu) <= LEVEL_HU, near, hu).astype(np.float32)


def network_scores(
    images: NDArray[np.uint8],
    labels: NDArray[np.int_],
    folds: NDArray[np.int_],
    epochs: int = EPOCHS,
    judged: int = FOLDS,
) -> NDArray[np.float64]:
    """Logits of a small convolutional network for each case, trained without its fold; mean over four rotations.

    NaN in folds from ``judged`` on: each fold costs a training.
    """
    x = torch.from_numpy(images.astype(np.float32) / 175 - 0.3)[:, None]
    y = torch.from_numpy(labels.astype(np.float32))
    out = np.full(len(labels), np.nan)
    for fold in np.unique(folds[folds < judged]):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        net = _network()
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
        batches = [part for _ in range(epochs) for part in np.array_split(rng.permutation(train), len(train) // 64 + 1)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, len(batches))
        net.train()
        for rows in batches:
            batch = torch.rot90(x[rows], int(rng.integers(4)), (2, 3))
            batch = batch.flip(3) if rng.random() < 0.5 else batch
            loss = functional.binary_cross_entropy_with_logits(net(batch)[:, 0], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.inference_mode():
            out[test] = sum(net(torch.rot90(x[test], turn, (2, 3)))[:, 0].numpy() for turn in range(4))
    return out


def _network() -> nn.Sequential:
    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(1, 24), *block(24, 24), nn.MaxPool2d(2), *block(24, 48), *block(48, 48), nn.MaxPool2d(2),
        *block(48, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 1),
    )  # fmt: skip


def tree_scores(images: NDArray[np.uint8], labels: NDArray[np.int_], folds: NDArray[np.int_]) -> NDArray[np.float64]:
    """Probabilities by boosted trees on statistics of rings around the middle: HU, noise, gradients, grain."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x = np.stack([_statistics(image.astype(np.float32)) for image in images])
    out = np.zeros(len(labels))
    for fold in np.unique(folds):
        trees = HistGradientBoostingClassifier(
            max_iter=150, learning_rate=0.06, max_leaf_nodes=12, l2_regularization=1.0, random_state=0
        )
        trees.fit(x[folds != fold], labels[folds != fold])
        out[folds == fold] = trees.predict_proba(x[folds == fold])[:, 1]
    return out


def _statistics(image: NDArray[np.float32]) -> NDArray[np.float64]:
    y, x = np.mgrid[:PX, :PX]
    fine = image - ndimage.gaussian_filter(image, 1)
    maps = (image, fine, ndimage.gaussian_gradient_magnitude(image, 0.7), ndimage.laplace(image))
    # the middle of what is bright near the middle
    weight = np.maximum(image - np.percentile(image, 30), 0) * np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 32) + 1e-3
    away = np.hypot(y - np.average(y, weights=weight), x - np.average(x, weights=weight))
    rings = [(away >= r) & (away < r + 1) for r in range(14)]
    out = [s for m in maps for r in rings for s in (m[r].mean(), m[r].std(), m[r].max())]
    for part in (fine, np.where(away < 5, fine, 0)):
        for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
            product = part[: PX - down, : PX - right] * part[down:, right:]
            out.append(product.sum() / (np.square(part).sum() + 1))
    return np.array([*out, *np.percentile(image[away < 5], (5, 25, 50, 75, 95, 99))])


@dataclass(frozen=True)
class Realness:
    """AUC of classifiers that tell rendered from real, 0.5 for none, each with its interval.

    Attributes:
        pairs: rendered.
        judged: number evaluated with the network; the trees are evaluated on all.
        network, trees: of each classifier, with DeLong's 95 % interval.
        context: of the network with the nodules blanked out: what the surroundings tell.
        by_kind: of the network, by texture and size.
    """

    pairs: int
    judged: int
    network: Interval
    trees: Interval
    context: Interval
    by_kind: dict[str, Interval]


def kind_of(shape: Shape) -> str:
    """Calcified, ground glass, part-solid or solid, by the readers' medians."""
    if (shape.ratings["calcification"] or 6) < 6:
        return "calcified"
    texture = shape.ratings["texture"]
    return "ground glass" if texture < 2 else "part-solid" if texture < 4.5 else "solid"


def evaluate(pairs: Pairs, epochs: int = EPOCHS, judged: int = FOLDS) -> Realness:
    """Train and evaluate both classifiers, fold by fold; the network optionally for the first few folds only."""
    images, labels, folds = pairs.cases()
    evaluated = folds < judged
    scores = network_scores(images, labels, folds, epochs, judged)[evaluated]
    blanked = network_scores(pairs.cases(blank=True)[0], labels, folds, epochs, judged)[evaluated]

    shapes = [s for s, those in zip(pairs.shapes * 2, evaluated, strict=True) if those]
    kinds = Groups.of([kind_of(s) for s in shapes])
    sizes = Groups.bands(np.array([s.diameter_mm for s in shapes]), (6, 10))
    found = auc_by_group(labels[evaluated], scores, kinds) | auc_by_group(labels[evaluated], scores, sizes)
    return Realness(
        len(pairs.shapes),
        len(shapes) // 2,
        delong(labels[evaluated], scores),
        delong(labels, tree_scores(images, labels, folds)),
        delong(labels[evaluated], blanked),
        {name: value.auc for name, value in found.items()},
    )


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds lidc/.")],
    most: Annotated[int | None, typer.Option(help="Pairs at most; all by default.")] = None,
    epochs: Annotated[int, typer.Option(help="Of the network.")] = EPOCHS,
    folds: Annotated[int, typer.Option(min=1, max=FOLDS, help="Folds to evaluate with the network.")] = FOLDS,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Render twins of real nodules, and print how well classifiers tell them apart (JSON)."""
    if threads:
        torch.set_num_threads(threads)
    found = evaluate(make_pairs(hosts(data), most, seed), epochs, folds)
    typer.echo(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    typer.run(main)
