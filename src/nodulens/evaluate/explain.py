"""Explanations of a classifier: Grad-CAM and SHAP values, from its gradients; and how well a map explains a score.

They explain the log odds of one class against all others. For an exported network, which has no gradients,
:mod:`nodulens.stages.occlusion` covers one part of the image after the other instead.
"""

# mypy: allow-untyped-calls
# torch is typed in part only.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.errors import BadOption, MissingExtra

Float32 = NDArray[np.float32]

CHUNK = 32
"""Images whose gradients are computed at once."""


def grad_cam(net: nn.Module, images: Tensor, target: int, cells: int = 4) -> Float32:
    """Grad-CAM (Selvaraju et al. 2017), captum's, of the last layer whose map is fine enough: where the network found
    evidence for a class.

    Args:
        net: (N, 1, size, size) → (N, classes) logits; run in evaluation mode, its own mode is restored.
        images: (N, 1, size, size).
        target: number of the class.
        cells: smallest number of cells along each side of the map. The last map of a deep network is too coarse for a
            small crop: DenseNet-121 leaves 2 × 2 of 64 × 64.

    Returns:
        (N, size, size) 0…1, each with maximum 1; all 0 without evidence for the class.

    Raises:
        BadOption: the network has no such map, or no such class.
        MissingExtra: captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise MissingExtra("train", "captum") from error
    layer = _last_layer_with_a_map(net, images[:1], target, cells)
    method = LayerGradCam(lambda some: _odds(net, some, target), layer)
    heat = []
    for some in images.split(CHUNK):
        summed = method.attribute(some.clone().requires_grad_(), relu_attributions=True)
        fine = functional.interpolate(summed, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        heat.append((fine / fine.amax((1, 2), keepdim=True).clamp(min=1e-12)).detach().cpu())
    return torch.cat(heat).numpy()


def _last_layer_with_a_map(net: nn.Module, image: Tensor, target: int, cells: int) -> nn.Module:
    """The last layer whose output has ``cells`` or more along each side.

    Raises:
        BadOption: there is none.
    """
    found: list[nn.Module] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) >= cells:
            found[:] = [module]

    hooks = [module.register_forward_hook(keep) for module in net.modules()]
    try:
        with torch.inference_mode():
            _odds(net, image, target)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise BadOption(f"The network has no map of {cells} × {cells} cells or more.")
    return found[0]


def shap_values(
    net: nn.Module, images: Tensor, target: int, background: Tensor, samples: int = 200, seed: int = 0
) -> Float32:
    """SHAP values: what each pixel adds to the log odds of a class, relative to background images.

    Expected gradients (Erion et al. 2021), as in shap's GradientExplainer: gradients on straight lines from random
    background images to the image, times the difference of the two. Their sum over all pixels is, up to sampling error,
    the log odds minus their mean over the background.

    Captum's GradientShap estimates the same with independent random points. Here sampling is stratified, one point from
    each part of the line and every background image equally often: with as many gradients the sum was up to nine times
    closer to its expected value. Captum also uses numpy's global generator, so repeating a figure would need a global
    seed.

    Args:
        net: (N, 1, size, size) → (N, classes) logits; run in evaluation mode, its own mode is restored.
        images: (N, 1, size, size).
        target: number of the class.
        background: (B, 1, size, size), such as crops the network was trained on.
        samples: points on such lines, for each image.
        seed: of the draws.

    Returns:
        (N, size, size): above 0 for the class, below against it.

    Raises:
        BadOption: no such class, no background or no samples.
    """
    if samples < 1 or not len(background):
        raise BadOption(f"SHAP values need samples and a background, got {samples} and {len(background)} images.")
    rng = np.random.default_rng(seed)
    out = np.zeros((len(images), *images.shape[2:]), dtype=np.float32)
    for number, image in enumerate(images):
        rows = torch.from_numpy(np.resize(rng.permutation(len(background)), samples))
        # stratified: one point in each part of the line
        parts = (rng.permutation(samples) + rng.random(samples)) / samples
        way = torch.from_numpy(parts.astype(np.float32)).view(-1, 1, 1, 1)
        total = torch.zeros_like(image)
        for some, share in zip(background[rows].split(CHUNK), way.split(CHUNK), strict=True):
            point = (some + share * (image - some)).requires_grad_()
            (slope,) = torch.autograd.grad(_odds(net, point, target).sum(), point)
            total += ((image - some) * slope).sum(0)
        out[number] = (total / samples)[0].cpu().numpy()
    return out


@dataclass(frozen=True)
class Faithfulness:
    """How well a map ranks the pixels of an image: areas under two curves of a score (Petsiuk et al. 2018).

    Attributes:
        deletion: mean score while the pixels are replaced, those first that the map says matter most; lower is better.
        insertion: mean score while they come back in that order; higher is better.
    """

    deletion: float
    insertion: float


def faithfulness(
    score: Callable[[Float32], Float32], image: Float32, without: Float32, order: NDArray[np.int_], steps: int = 16
) -> Faithfulness:
    """Replace some pixels of an image step by step in a given order, and put them back in the same.

    Args:
        score: (N, channels, rows, columns) → (N,).
        image: (channels, rows, columns).
        without: the same shape: what replaces the pixels.
        order: (P,) numbers of the pixels that are replaced, row by row, the most important first.
        steps: in which they are replaced, about equally many pixels each.

    Raises:
        BadOption: no pixels or no steps.
    """
    if steps < 1 or not len(order):
        raise BadOption(f"A deletion curve needs pixels and steps, got {len(order)} and {steps}.")
    rank = np.full(image.shape[1] * image.shape[2], len(order))
    rank[order] = np.arange(len(order))
    done = np.round(np.linspace(0, len(order), steps + 1))[:, None, None, None]
    replaced = rank.reshape(1, 1, *image.shape[1:]) < done
    kept = rank.reshape(1, 1, *image.shape[1:]) == len(order)
    deleted = score(np.where(replaced, without, image))
    inserted = score(np.where(replaced | kept, image, without))
    deletion, insertion = (float((curve[:-1] + curve[1:]).mean() / 2) for curve in (deleted, inserted))
    return Faithfulness(deletion, insertion)


def _odds(net: nn.Module, images: Tensor, target: int) -> Tensor:
    """(N,) log odds of a class against all others, in evaluation mode."""
    training = net.training
    net.eval()
    try:
        logits: Tensor = net(images.to(next(net.parameters()).device))
    finally:
        net.train(training)
    classes = logits.shape[1]
    if not 0 <= target < classes or classes < 2:
        raise BadOption(f"The network has {classes} classes; there is no number {target} against others.")
    others = [k for k in range(classes) if k != target]
    return logits[:, target] - logits[:, others].logsumexp(1)
