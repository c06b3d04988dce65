"""The processes that train one model together, as `torchrun` starts them.

Reference: Li et al., "PyTorch Distributed", arXiv:2006.15704.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# A rank that waits longer for another gives up: it has died, and torchrun starts all anew.
_TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees them; alone, all here is free.

    Args:
        rank: its number; 0 is the one that writes and prints.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of the process group that was joined, if one was."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """The sum over the ranks of each number."""
        if self.world_size == 1:
            return list(numbers)
        # NCCL knows the memory of GPUs only
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank: all learn it at the same place."""
        return self.sum(flag)[0] > 0

    def meet(self) -> None:
        """Go on when all ranks are here."""
        self.sum(0)

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, on all of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """The value that the main rank has."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]


def launched_ranks() -> Ranks:
    """What `torchrun` says in the environment, before any group is joined.

    Raises:
        ValueError: it says no numbers.
    """
    try:
        return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise ValueError(f"RANK and WORLD_SIZE, which torchrun sets: {error}") from None


def device_of_rank(device: torch.device) -> torch.device:
    """The device of this rank: of several GPUs its own, unless one is named.

    Raises:
        ValueError: the kind of device cannot be shared by ranks.
    """
    if Ranks.current().world_size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"several processes cannot train on {device.type}: use cpu or cuda")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Be one of the processes that `torchrun` started, or alone if it started none.

    Args:
        device: what they train on, "cuda" through NCCL, "cpu" through Gloo.

    Raises:
        ValueError: the device cannot be shared by ranks.
    """
    if launched_ranks().world_size == 1 or dist.is_initialized():
        yield Ranks.current()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        device_of_rank(device)
        yield Ranks.current()
    finally:
        dist.destroy_process_group()
