"""Load encoders trained on ImageNet, from a file or a hub, into our networks.

timm's files fit (densenet121, resnet50, efficientnet_b0; of the last the tf_ variants pad as ours does), and
torchvision's of DenseNet-121 and ResNet-50. The first convolution is adapted: these networks expect three colours
around 0, ours one grey value 0…1.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nodulens.errors import BadOption, MissingExtra, NotFound, UnreadableFile
from nodulens.methods.recipe import NetworkConfig
from nodulens.train.networks.registry import build

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours, with which the published encoders were trained."""


def started(config: NetworkConfig, part: str) -> nn.Module:
    """Build and initialise a network: random by its seed, the encoder from ImageNet if the config names one.

    Warns if its publication starts from ImageNet, and no encoder is named.

    Args:
        part: field of the recipe, for the warning.

    Raises:
        BadOption, MissingExtra, NotFound, UnreadableFile: see :func:`~nodulens.train.networks.registry.build`,
            :func:`find_pretrained` and :func:`load_pretrained`.
    """
    torch.manual_seed(config.seed)
    net = build(config)
    if config.pretrained is not None:
        load_pretrained(net, config.network, find_pretrained(config.pretrained))
    elif config.network in PUBLISHED:
        warnings.warn(
            f"{config.network} starts from random weights, its publication from ImageNet's: name a file or hub name "
            f"by --set {part}.pretrained=PLACE.",
            stacklevel=2,
        )
    return net


def load_pretrained(net: nn.Module, network: str, path: Path) -> None:
    """Load the encoder of a network; the last layer and a decoder are not changed.

    Args:
        network: its name in :mod:`nodulens.train.networks.registry`.
        path: safetensors, or a PyTorch file of tensors (read with ``weights_only``).

    Raises:
        BadOption: there is no published encoder for it.
        NotFound, UnreadableFile: no such file, or it is of another network.
    """
    if network not in PUBLISHED:
        raise BadOption(f"{network!r} has no published encoder; {', '.join(PUBLISHED)} have.")
    there = {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", name): tensor for name, tensor in _read(path).items()}
    stem, norm, published = PUBLISHED[network]
    own = net.state_dict()
    wanted = {name: published(name) for name in own}
    filled = {name: there[name_there] for name, name_there in wanted.items() if name_there in there}
    missing = [n for n in wanted.values() if n and n not in there and not n.endswith("num_batches_tracked")]
    if not missing:
        filled[stem], off = _grey(filled[stem])
        filled[norm] = filled[norm] + off
        missing = [n for n, tensor in filled.items() if tensor.shape != own[n].shape]
    if missing:
        raise UnreadableFile(
            f"{path} is of another network than {network}: {missing[0]} is missing or of another shape."
        )
    net.load_state_dict(own | filled)


def find_pretrained(place: str) -> Path:
    """Find a file, or ``owner/name`` on the Hugging Face hub, which is fetched if it is not cached yet.

    Raises:
        NotFound: neither a file nor on the hub.
        MissingExtra: it is a hub name, and the hub's client is not installed.
    """
    if Path(place).is_file():
        return Path(place)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or Path(place).suffix in (".safetensors", ".pth", ".pt"):
        raise NotFound(f"There is no file {place}, and it is not a hub name (owner/name).")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra("train", "huggingface_hub") from error
    try:
        return Path(hf_hub_download(place, "model.safetensors"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise NotFound(f"{place} could not be fetched: {error}. Name a file instead.") from error


def _grey(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The first convolution for one grey value 0…1, and the shift of its batch norm's mean.

    Grey is the same in all three colours, so their weights add up, each divided by its colour's standard deviation.
    Subtracting the colours' means is a constant for each output, except at the border.

    Args:
        weight: (outputs, 3, y, x).
    """
    scaled = weight / torch.tensor(STD).view(1, 3, 1, 1)
    return scaled.sum(1, keepdim=True), (scaled * torch.tensor(MEAN).view(1, 3, 1, 1)).sum((1, 2, 3))


def _densenet(name: str) -> str | None:
    return name.replace(".layers.", ".") if name.startswith("features.") else None


def _resnet(name: str) -> str | None:
    return name.removeprefix("encoder.") if name.startswith("encoder.") else None


FIRST_BLOCKS = (0, 1, 3, 5, 8, 11, 15)
"""The index of each stage's first block in EfficientNet-B0, as MONAI numbers them."""
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **SQUEEZE}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **SQUEEZE,
}
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def _efficientnet(name: str) -> str | None:
    match = re.fullmatch(r"_blocks\.(\d)\.(\d+)\.(\w+)\.(\w+)", name)
    if match is None:
        part, _, end = name.partition(".")
        return f"{ENDS[part]}.{end}" if part in ENDS else None
    stage, block, part, end = int(match[1]), int(match[2]), match[3], match[4]
    return f"blocks.{stage}.{block - FIRST_BLOCKS[stage]}.{(EXPANDING if stage else PLAIN)[part]}.{end}"


PUBLISHED: dict[str, tuple[str, str, Callable[[str], str | None]]] = {
    "densenet121": ("features.conv0.weight", "features.norm0.running_mean", _densenet),
    "resnet50-unet": ("encoder.conv1.weight", "encoder.bn1.running_mean", _resnet),
    "efficientnet-b0": ("_conv_stem.weight", "_bn0.running_mean", _efficientnet),
}
"""Network → its first convolution, the mean of the batch norm after it, and a function from a tensor's name to that in
the published files, None outside the encoder."""


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingExtra("train", "safetensors") from error
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UnreadableFile(f"{path} is not a safetensors file: {error}.") from error
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UnreadableFile(f"{path} is not a PyTorch file of tensors alone: {error}") from error
    return state.get("state_dict", state)
