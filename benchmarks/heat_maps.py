"""Which map explains the malignancy network best: deletion and insertion curves of what the program finds in scans.

    python benchmarks/heat_maps.py --data ../shared/data

The network was not trained on the patients of these scans. Pixels of a nodule's box on its largest slice are replaced
in the order of a map, density and outline alike, and come back in that order (Petsiuk et al. 2018); the score is the
network's malignancy logit, the mean over four mirror images. A better map has a lower mean logit when pixels go and a
higher one when they come back. A pixel is replaced by what covers of the program's own map use, the density of the
surroundings and no outline; or by the blurred picture, which favours no map here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import ndimage

import nodulens as nl
from nodulens.core.nodule import Box, Nodule
from nodulens.core.volume import Volume
from nodulens.evaluate.explain import faithfulness
from nodulens.metrics.statistics import bootstrap_means
from nodulens.ops.orient import canonical
from nodulens.ops.patches import Window
from nodulens.runtime.engine import Model, load_model
from nodulens.stages.classify import slice_view, without_nodule
from nodulens.stages.occlusion import CELLS, covered, heat_map
from nodulens.stages.position import central_slice

SCANS = ("LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0028", "Lung_Dx-A0001")
TURNS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
BLUR_PX = 8
BASE = "random"
RANDOM = 5
"""Random orders whose mean is that row."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """A nodule as the network sees it on its largest slice.

    Attributes:
        view: (2, 64, 64) density and outline.
        window: of the view on the slices of the scan.
        shape: of the scan.
    """

    nodule: Nodule
    view: Float32
    window: Window
    shape: tuple[int, int, int]

    @property
    def box(self) -> Box:
        return self.nodule.box

    def on_view(self, heat: Float32 | None) -> Float32:
        """(64, 64): a map (z, y, x) of the nodule's box, the same on every slice."""
        assert heat is not None
        plane = np.zeros(self.shape[1:], dtype=np.float32)
        plane[self.box.slices[1:]] = heat[0]
        return self.window.sample(plane[None])[0]

    @property
    def inside(self) -> NDArray[np.int_]:
        """Numbers of the view's pixels in the box."""
        return np.flatnonzero(self.on_view(np.ones(self.box.shape, np.float32)) > 0.5)


def main(data: Annotated[Path, typer.Option(help="Folder with ct/.")] = Path("../shared/data")) -> None:
    """Print the table of docs/report.md."""
    model = load_model("malignancy", threads=1)
    nodules = [seen for scan in SCANS for seen in findings(data / "ct" / scan)]
    rng = np.random.default_rng(0)
    maps: dict[str, Callable[[Seen], Float32]] = {
        "occlusion, soft covers (the report's)": lambda seen: seen.on_view(seen.nodule.heat),
        "occlusion, hard covers": lambda seen: seen.on_view(hard_covers(seen, model)),
        BASE: lambda seen: rng.random(seen.view.shape[1:], np.float32),
    }
    for name, replace in (("its surroundings and no outline", surroundings), ("the blurred picture", blurred)):
        rows = {}
        for row, of in maps.items():
            repeats = RANDOM if row == BASE else 1
            each = [[curves(seen, of(seen), replace, model) for seen in nodules] for _ in range(repeats)]
            rows[row] = np.mean(each, axis=0)
        print(f"\n{len(nodules)} nodules, pixels replaced by {name}:\n")
        print(f"| map | deletion | insertion | insertion less deletion [95 %] | more than {BASE} [95 %] |")
        print("| --- | --- | --- | --- | --- |")
        for row, both in rows.items():
            gaps = np.stack([v[:, 1] - v[:, 0] for v in (both, both - rows[BASE])], axis=1)
            found = bootstrap_means(gaps, np.arange(len(nodules)))
            shown = " | ".join(f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]" for i in found)
            print(f"| {row} | {both[:, 0].mean():.2f} | {both[:, 1].mean():.2f} | {shown} |")
    start = time.process_time()
    for seen in nodules:
        model.run(covered(seen.view, without_nodule(seen.view), seen.window, seen.box))
    print(f"\nThe report's map: {1000 * (time.process_time() - start) / len(nodules):.0f} ms of one core a nodule.")


def findings(path: Path) -> list[Seen]:
    """The findings in a scan."""
    volume: Volume = canonical(nl.read(path))[0]
    out = []
    for nodule in nl.analyze(volume).nodules:
        assert nodule.mask is not None
        view, window = slice_view(volume, nodule.box, nodule.mask, central_slice(nodule.mask))
        out.append(Seen(nodule, view, window, volume.geometry.shape))
    return out


def curves(seen: Seen, heat: Float32, replace: Callable[[Float32], Float32], model: Model) -> tuple[float, float]:
    """Deletion and insertion of the pixels in the nodule's box, ranked by a map (64, 64)."""

    def score(views: Float32) -> Float32:
        logits = [model.run(views[:, :, ::v, ::h])[0][:, 0] for v, h in TURNS]
        return np.asarray(np.mean(logits, axis=0), dtype=np.float32)

    inside = seen.inside
    order = inside[np.argsort(-heat.ravel()[inside], kind="stable")]
    both = faithfulness(score, seen.view, replace(seen.view), order)
    return both.deletion, both.insertion


def surroundings(view: Float32) -> Float32:
    """The view without the nodule: the density of its surroundings, and no outline."""
    return np.broadcast_to(without_nodule(view)[:, None, None], view.shape)


def blurred(view: Float32) -> Float32:
    """The view with density and outline blurred."""
    return np.asarray(ndimage.gaussian_filter(view, (0, BLUR_PX, BLUR_PX)), dtype=np.float32)


def hard_covers(seen: Seen, model: Model) -> Float32:
    """(z, y, x) of the nodule's box: the map of covers with hard edges, two cells wide."""
    start, stop = (np.array([0, *edge[1:]]) for edge in (seen.box.start, seen.box.stop))
    inside = []
    for axis in (1, 2):
        step = (stop[axis] - start[axis]) / CELLS
        place = seen.window.first[axis] + seen.window.step[axis] * np.arange(seen.window.shape[axis])
        middle = start[axis] - 0.5 + step * (np.arange(CELLS) + 0.5)
        inside.append(np.abs(place - middle[:, None]) <= max(step, seen.window.step[axis]))
    where = (inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(-1, 1, *seen.view.shape[1:])
    views = np.concatenate([seen.view[None], np.where(where, surroundings(seen.view), seen.view)])
    logits = model.run(views)[0][:, 0]
    return heat_map(logits[0] - logits[1:], seen.box, seen.shape)


if __name__ == "__main__":
    typer.run(main)
