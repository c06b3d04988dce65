"""The state of every generator that training draws from, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, str]:
    """The states of the CPU's generator and of the device's."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return {
        name: base64.b64encode(state.numpy().tobytes()).decode() for name, state in states.items()
    }


def check_random_state(states: Mapping[str, Any]) -> None:
    """Raise ValueError if a state is damaged."""
    _decode(states)


def restore_random_state(states: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators back into the states.

    Raises:
        ValueError: a state is damaged, or that of the CPU missing.
    """
    decoded = _decode(states)
    if "cpu" not in decoded:
        raise ValueError("the state of the CPU's random generator is missing")
    torch.set_rng_state(decoded["cpu"])
    # a checkpoint of another kind of device has no state of this one
    if device.type == "cuda" and "cuda" in decoded:
        torch.cuda.set_rng_state(decoded["cuda"], device)
    if device.type == "mps" and "mps" in decoded:
        torch.mps.set_rng_state(decoded["mps"])


def _decode(states: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        decoded = {
            name: torch.frombuffer(
                bytearray(base64.b64decode(state, validate=True)), dtype=torch.uint8
            )
            for name, state in states.items()
        }
        if "cpu" in decoded:
            torch.Generator().set_state(decoded["cpu"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the state of a random generator is damaged: {error}") from None
    return decoded
