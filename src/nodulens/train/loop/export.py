"""Export of a trained network to an ONNX file with a card."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nodulens.errors import NodulensError
from nodulens.io.atomic import whole_file
from nodulens.runtime.engine import Array, compile_bytes, compile_model
from nodulens.train.loop.distributed import Ranks
from nodulens.train.networks.default_method import PooledClassifier
from nodulens.train.networks.whitening import Whitening

Compiled = Callable[[Array], tuple[Array, ...]]

TRAINED_ON = "trained on LIDC-IDRI (CC BY 3.0) and LUNA16 (CC BY 4.0)"
LICENCE = f"Apache-2.0; {TRAINED_ON}"
TOLERANCE = 1e-3
"""Largest difference between an output of the file and the network's."""


class WithFeatures(nn.Module):
    """A classifier with its pooled features, whitened, beside the logits."""

    def __init__(self, net: PooledClassifier, whitening: Whitening) -> None:
        super().__init__()
        self.net, self.whitening = net, whitening

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net.pooled(x)
        return self.net.classify(features), self.whitening(features)


def export(net: nn.Module, example: Tensor, folder: Path, card: dict[str, Any], tolerance: float = TOLERANCE) -> Path:
    """Write ``name.onnx`` and its card ``name.json``, both atomically, the card last.

    In distributed training (:mod:`nodulens.train.loop.distributed`) the first process writes; the others wait for it.

    Args:
        net: in evaluation mode, on the CPU.
        example: an input; the first axis is free.
        card: all fields of the card but the hash; the licence only where it is not ours.
        tolerance: see :func:`check_parity`.

    Raises:
        NodulensError: the ONNX file does not compute what the network does.
    """
    ranks = Ranks.joined()
    target = folder / f"{card['name']}.onnx"
    if ranks.first:
        _export(net, example, target, card, tolerance)
    ranks.wait()
    return target


def settle(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Put settings on the card of an exported network: those that are found by running it."""
    ranks = Ranks.joined()
    if ranks.first:
        path = folder / f"{name}.json"
        _write_card(path, {**json.loads(path.read_text(encoding="utf-8")), "settings": settings})
    ranks.wait()


def write_model(content: bytes, folder: Path, card: dict[str, Any]) -> None:
    """Write the content of an ONNX file and its card, both atomically, the card last.

    Args:
        card: all fields of the card but the hash.
    """
    with whole_file(folder / f"{card['name']}.onnx") as part:
        part.write_bytes(content)
    _write_card(folder / f"{card['name']}.json", {**card, "sha256": hashlib.sha256(content).hexdigest()})


def _write_card(path: Path, card: dict[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _export(net: nn.Module, example: Tensor, target: Path, card: dict[str, Any], tolerance: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    net = net.eval().cpu()
    with whole_file(target) as part:
        with _quiet_exporter():
            torch.onnx.export(
                net,
                (example,),
                str(part),
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            )
        content = _stripped(part)
        _compare(net, compile_bytes(content, threads=1), example, tolerance)
        part.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    card["input"]["gflop"] = round(gflop(net, example), 4)
    _write_card(target.with_suffix(".json"), {**card, "licence": card.get("licence", LICENCE), "sha256": sha256})


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's warnings, on which a user cannot act: of torch and a missing torchvision."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def gflop(net: nn.Module, example: Tensor) -> float:
    """GFLOP of one example, multiplications and additions."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(example)
    return float(counter.get_total_flops()) / len(example) / 1e9


def _stripped(path: Path) -> bytes:
    """An ONNX file without the exporter's stack traces, which name folders of this machine."""
    model = onnx.load(path)
    graph = model.graph
    named = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *named, *model.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    content: bytes = model.SerializeToString()
    return content


def check_parity(net: nn.Module, path: Path, example: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compare the file, run by the runtime's engine, with the network.

    Raises:
        NodulensError: any output differs by more than the tolerance.
    """
    _compare(net, compile_model(path, threads=1), example, tolerance)


@torch.inference_mode()
def _compare(net: nn.Module, compiled: Compiled, example: Tensor, tolerance: float) -> None:
    ours = compiled(example.numpy())
    theirs = net(example)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for a, b in zip(ours, theirs, strict=True):
        off = float(np.abs(a - b.numpy()).max())
        if off > tolerance:
            raise NodulensError(f"The exported model differs from the trained one by {off:.2g}.")
