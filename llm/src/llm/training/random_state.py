"""The state of every generator that training draws from, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.training.ranks import Ranks


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the CPU's generator and of the device's, in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators of this process back; one whose state is missing is left alone."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def random_state(device: torch.device, ranks: Ranks) -> dict[str, str]:
    """The generators' states on every rank."""
    encoded = {
        _name(name, ranks.rank): base64.b64encode(state.numpy().tobytes()).decode()
        for name, state in generator_states(device).items()
    }
    return {name: state for of_rank in ranks.gather(encoded) for name, state in of_rank.items()}


def check_random_state(states: Mapping[str, Any]) -> None:
    """Raise ValueError if a state is damaged."""
    _decode(states)


def restore_random_state(states: Mapping[str, Any], device: torch.device, ranks: Ranks) -> None:
    """Put the generators of this rank back into the states.

    Args:
        states: of all ranks, as `random_state` gives them.
        device: that this rank trains on.
        ranks: those that train now. One that did not train then begins at a state
            of its own.

    Raises:
        ValueError: a state is damaged, or that of the CPU missing.
    """
    decoded = _decode(states)
    if "cpu" not in decoded:
        raise ValueError("the state of the CPU's random generator is missing")
    torch.set_rng_state(decoded["cpu"])
    if _name("cpu", ranks.rank) not in decoded:
        seed_rank(int(torch.randint(2**62, ())), ranks)
        return
    # a checkpoint of another kind of device has no state of this one
    own = {kind: decoded.get(_name(kind, ranks.rank)) for kind in ("cpu", device.type)}
    set_generator_states({kind: state for kind, state in own.items() if state is not None}, device)


def seed_rank(seed: int, ranks: Ranks) -> None:
    """Seed all generators: each rank has randomness of its own, rank 0 that of a lone process."""
    torch.manual_seed((seed + 0x9E3779B97F4A7C15 * ranks.rank) % 2**63)


def _name(device: str, rank: int) -> str:
    return device if rank == 0 else f"{device} of rank {rank}"


def _decode(states: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        decoded = {
            name: torch.frombuffer(
                bytearray(base64.b64decode(state, validate=True)), dtype=torch.uint8
            )
            for name, state in states.items()
        }
        for name, state in decoded.items():
            if name.startswith("cpu"):
                torch.Generator().set_state(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the state of a random generator is damaged: {error}") from None
    return decoded
