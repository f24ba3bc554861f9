"""Distributed training: ``torchrun --nproc-per-node 2 -m nodulens train …``.

Every process takes its share of each epoch's batches; gradients are averaged after every step, so that all have the
same weights. Only the first writes and validates.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training.

    Attributes:
        rank: 0…world − 1.
        world: number of processes.
        device: of this process.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def joined(cls) -> Ranks:
        """This process by PyTorch's launcher; the first call enters the process group (NCCL on GPUs or gloo)."""
        gpu = torch.cuda.is_available()
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(0, 1, torch.device("cuda" if gpu else "cpu"))
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if gpu else "gloo")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
        return cls(distributed.get_rank(), world, device)

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network with gradients averaged over all processes."""
        if self.world == 1:
            return net
        return DistributedDataParallel(net, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def mine(self, batches: list[T]) -> list[T]:
        """Every ``world``-th batch; the same number for each process, or the others would wait forever."""
        return batches[self.rank : len(batches) - len(batches) % self.world : self.world]

    def from_first(self, values: list[float]) -> list[float]:
        """Broadcast numbers of the first process to all."""
        if self.world == 1:
            return values
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(sent, 0)
        return [float(v) for v in sent]

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
        return float(value) / self.world

    def average(self, values: Tensor) -> None:
        """Replace values by their means over all processes."""
        if self.world > 1:
            sent = values.to(self.device)
            distributed.all_reduce(sent)
            values.copy_(sent / self.world)

    def leave(self) -> None:
        """Leave the process group."""
        if self.world > 1:
            distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)
