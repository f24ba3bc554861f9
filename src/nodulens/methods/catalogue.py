"""The five published methods and our own, side by side.

A recipe is a value: another method is another record here and, where it needs one, a function in
:mod:`nodulens.train.networks.registry`. What each publication states, and how we read what it leaves open, stands in
``docs/methods.md``.
"""

from __future__ import annotations

from nodulens.errors import BadOption
from nodulens.methods.recipe import DEFAULT, NetworkConfig, Recipe

BENIGN_OR_MALIGNANT = ("benign", "malignant")

SAM2_DENSENET = Recipe(
    name="sam2-densenet",
    title="A: SAM2 segments at a prompt, DenseNet-121 classifies",
    source="promptable segmentation with SAM2, then DenseNet-121",
    prompted="sam2",
    checkpoint="facebook/sam2.1-hiera-tiny",
    classifier=NetworkConfig(
        network="densenet121",
        size=64,
        pixel_mm=0.7,
        classes=BENIGN_OR_MALIGNANT,
        loss="cross-entropy",
        epochs=100,
        learning_rate=1e-3,
        optimizer="sgd",
        schedule="step",
        batch=32,
        augment=("flip", "rotate", "zoom"),
        balance="sampling",
    ),
    masked=True,
)

SE_AUX_UNET = Recipe(
    name="se-aux-unet",
    title="B: one U-Net segments lungs and nodules on whole slices, a second head classifies what is present",
    source="squeeze-and-excitation U-Net with an auxiliary classifier",
    segmenter=NetworkConfig(
        network="se-aux-unet",
        size=320,
        pixel_mm=None,
        classes=("background", "left lung", "right lung", "nodule"),
        loss="hybrid",
        epochs=50,
        learning_rate=1e-3,
        optimizer="adam",
        schedule="plateau",
        patience=10,
        averaging=0,
        weight_decay=0,
        batch=8,
        auxiliary=0.3,
    ),
    prompted=None,
)

NNUNET_SAM = Recipe(
    name="nnunet-sam",
    title="C: a self-configured U-Net detects, a prompted network refines each finding",
    source="nnU-Net, then SAM on grown boxes",
    segmenter=NetworkConfig(
        network="planned-unet",
        size=512,
        pixel_mm=None,
        classes=("background", "nodule"),
        loss="dice+cross-entropy",
        epochs=200,
        learning_rate=1e-2,
        optimizer="sgd",
        schedule="polynomial",
        averaging=0,
        weight_decay=3e-5,
        batch=12,
        augment=("flip", "rotate", "zoom", "brightness", "contrast", "noise"),
    ),
    prompted="sam",
    checkpoint="facebook/sam-vit-base",
    shown="crop",
    box_scale=1.2,
    classifier=NetworkConfig(
        network="efficientnet-b0",
        size=64,
        pixel_mm=0.7,
        classes=("indeterminate", *BENIGN_OR_MALIGNANT),
        loss="cross-entropy",
        epochs=50,
        learning_rate=1e-3,
        augment=("flip", "turn"),
        balance="weights",
    ),
    masked=True,
)

YOLO_SEG = Recipe(
    name="yolo-seg",
    title="The baseline of C: YOLO11-seg segments whole slices, without refinement",
    source="YOLO11-seg, size m",
    segmenter=NetworkConfig(
        network="yolo11m-seg",
        size=512,
        pixel_mm=None,
        classes=("nodule",),
        loss="yolo",
        epochs=100,
        learning_rate=1e-2,
        optimizer="sgd",
        schedule="cosine",
        warm_up=0.03,
        patience=100,
        averaging=0.9999,
        weight_decay=5e-4,
        batch=16,
        augment=("flip", "zoom", "shift", "brightness"),
    ),
    prompted=None,
)
"""Not one of :data:`RECIPES`: an external framework builds and trains it, see :mod:`nodulens.train.external.yolo`."""

RESNET_UNET_PATCH_CNN = Recipe(
    name="resnet-unet-patch-cnn",
    title="D: a U-Net segments whole slices, a CNN keeps or rejects each region",
    source="ResNet-50 U-Net and a 64 × 64 patch CNN",
    segmenter=NetworkConfig(
        network="resnet50-unet",
        size=224,
        pixel_mm=None,
        classes=("lung", "nodule"),
        loss="bce",
        epochs=50,
        learning_rate=1e-4,
        optimizer="adam",
        schedule="constant",
        averaging=0,
        weight_decay=0,
        batch=16,
        augment=("flip", "rotate", "brightness", "contrast", "noise"),
    ),
    prompted=None,
    filter=NetworkConfig(
        network="patch-cnn",
        size=64,
        pixel_mm=None,
        classes=("nodule",),
        loss="bce",
        epochs=100,
        learning_rate=1e-3,
        optimizer="adam",
        weight_decay=0,
        batch=96,
        augment=("flip", "turn", "shift", "brightness", "contrast", "noise"),
        balance="sampling",
    ),
)

CONV3_CLASSIFIER = Recipe(
    name="conv3-classifier",
    title="E: three convolutions classify a region of interest",
    source="a three-layer CNN on regions of interest of 124 × 124",
    classifier=NetworkConfig(
        network="conv3",
        size=124,
        pixel_mm=0.35,
        crop_scale=1.0,
        classes=BENIGN_OR_MALIGNANT,
        loss="cross-entropy",
        epochs=50,
        learning_rate=1e-3,
        optimizer="adam",
        schedule="constant",
        batch=20,
        augment=("rotate", "flip", "zoom"),
        balance="weights",
    ),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (DEFAULT, SAM2_DENSENET, SE_AUX_UNET, NNUNET_SAM, RESNET_UNET_PATCH_CNN, CONV3_CLASSIFIER)
}


def recipe_named(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        BadOption: there is no such recipe; the message lists all.
    """
    if name not in RECIPES:
        raise BadOption(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
