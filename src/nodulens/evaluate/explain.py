"""What a classifier looked at: Grad-CAM and SHAP values, from its gradients.

What is explained is the log odds of one class against all others. Where only the exported network is at hand,
:func:`nodulens.stages.classify_crop.grade` covers part after part instead.
"""

# mypy: allow-untyped-calls
# torch is typed in part only.

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodulens.errors import BadOption

Float32 = NDArray[np.float32]

CHUNK = 32
"""Images whose gradients are computed at once."""


def grad_cam(net: nn.Module, images: Tensor, target: int, cells: int = 4) -> Float32:
    """Where the network saw what speaks for a class (Selvaraju et al. 2017).

    The features of the last layer that still has a map are added up, each weighted by the mean of the gradient that it
    has there; what speaks against the class is cut off.

    Args:
        net: puts out (N, classes) logits; taken in evaluation mode, and left as it was.
        images: (N, 1, size, size).
        target: number of the class.
        cells: the map taken is the last of at least so many cells along each side. Deep networks shrink a small crop
            until nothing of it has a place: DenseNet-121 leaves 2 × 2 of 64 × 64.

    Returns:
        (N, size, size) 0…1, each with 1 where it is strongest; all 0 where nothing speaks for the class.

    Raises:
        BadOption: the network has no such map, or no such class.
    """
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) >= cells:
            maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in net.modules()]
    heat = []
    try:
        for some in images.split(CHUNK):
            value = _odds(net, some.clone().requires_grad_(), target)
            if not maps:
                raise BadOption(f"The network has no map of {cells} × {cells} cells or more.")
            (slope,) = torch.autograd.grad(value.sum(), maps)
            summed = (slope.mean((2, 3), keepdim=True) * maps[0]).sum(1, keepdim=True).clamp(min=0)
            fine = functional.interpolate(summed, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
            heat.append((fine / fine.amax((1, 2), keepdim=True).clamp(min=1e-12)).detach().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(heat).numpy()


def shap_values(
    net: nn.Module, images: Tensor, target: int, background: Tensor, samples: int = 200, seed: int = 0
) -> Float32:
    """What each pixel adds to the log odds of a class, against images of the background.

    Expected gradients (Erion et al. 2021), as shap's GradientExplainer has it: gradients on straight ways from random
    background images, times what lies between. All pixels together come to the log odds less their mean over the
    background, but for chance.

    Args:
        net: puts out (N, classes) logits; taken in evaluation mode, and left as it was.
        images: (N, 1, size, size).
        target: number of the class.
        background: (B, 1, size, size), such as crops the network was trained on.
        samples: points on such ways, for each image.
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
        # one point in each part of the way, so that none is missed
        parts = (rng.permutation(samples) + rng.random(samples)) / samples
        way = torch.from_numpy(parts.astype(np.float32)).view(-1, 1, 1, 1)
        total = torch.zeros_like(image)
        for some, share in zip(background[rows].split(CHUNK), way.split(CHUNK), strict=True):
            point = (some + share * (image - some)).requires_grad_()
            (slope,) = torch.autograd.grad(_odds(net, point, target).sum(), point)
            total += ((image - some) * slope).sum(0)
        out[number] = (total / samples)[0].cpu().numpy()
    return out


def _odds(net: nn.Module, images: Tensor, target: int) -> Tensor:
    """(N,) log odds of a class against all others, in evaluation mode and with gradients."""
    training = net.training
    net.eval()
    try:
        logits: Tensor = net(images.to(next(net.parameters()).device))
    finally:
        net.train(training)
    classes = logits.shape[1]
    if not 0 <= target < classes or classes < 2:
        raise BadOption(f"The network tells {classes} classes apart; there is no number {target} against others.")
    others = [k for k in range(classes) if k != target]
    return logits[:, target] - logits[:, others].logsumexp(1)
