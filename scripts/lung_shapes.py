"""Makes the shapes of whole lungs that come with the package, from the three backgrounds of the training data.

    python scripts/lung_shapes.py --data ../shared/data

The lungs of LIDC-IDRI-0293, -0295 and -0306 as the lung stage finds them, in voxels of about 4 mm, vessels filled. The
scans of evaluation patients take no part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nodulens.core.nodule import Box
from nodulens.data.material import Background
from nodulens.stages.expected import coarse_chest
from nodulens.stages.lung_shapes import FILE, whole
from nodulens.stages.lungs import segment_lungs

OUT = Path(__file__).resolve().parents[1] / "src" / "nodulens" / "stages" / FILE


def main(data: Annotated[Path, typer.Option(help="Folder with background/.")] = Path("../shared/data")) -> None:
    """Write the file."""
    stored: dict[str, np.ndarray] = {"patients": np.array(Background.PATIENTS)}
    spacing = []
    for number, patient in enumerate(Background.PATIENTS):
        volume = Background.volume(data, patient)
        found = np.asarray(segment_lungs(volume).labels, dtype=np.uint8)
        chest = coarse_chest(volume.hu, found, volume.geometry.spacing_zyx)
        left, right = (whole(chest.lungs[side], chest.spacing) for side in ("left", "right"))
        labels = np.where(left, 1, np.where(right, 2, 0)).astype(np.uint8)
        stored[f"labels_{number}"] = labels[Box.of_mask(labels > 0).slices]
        spacing.append(chest.spacing)
    np.savez_compressed(OUT, allow_pickle=False, **stored, spacing=np.array(spacing))
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)
