"""Whether a run is resumed with the settings that it was started with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

# How often and where, not what is computed.
_FREE = {
    "training.log_every",
    "training.validate_every",
    "training.sample_every",
    "training.save_every",
    "training.keep_checkpoints",
    "training.on_bad_step",
    "training.max_loss_ratio",
    "training.device",
    # what counts is their product, with the number of ranks: the examples of a step
    "training.batch_size",
    "training.accumulation_steps",
    "training.max_tokens",
    # the same numbers, computed elsewhere or twice
    "training.gradient_checkpointing",
    "training.parallel",
}
_COMPARED = ("model", "training", "fingerprints")


def check_settings(
    started_with: Mapping[str, Any], resumed_with: Mapping[str, Any], allowed: Collection[str]
) -> dict[str, Any]:
    """Compare two descriptions of a run, as `run.json` has them.

    Args:
        started_with: the run's own.
        resumed_with: that of the trainer which is to go on with it.
        allowed: settings that may differ, by name: "learning_rate", or
            "training.learning_rate".

    Returns:
        What has changed, by name, in the form [before, after].

    Raises:
        ValueError: other settings differ (all are named), or `allowed` names
            what is no setting.
    """
    before, after = _leaves(started_with), _leaves(resumed_with)
    names = sorted(before.keys() | after.keys())
    for name in allowed:
        if not any(_is_meant(name, each) for each in names):
            raise ValueError(f"{name!r} is not a setting of a run: {', '.join(names)}")
    changes = {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name)
    }
    refused = [
        f"{name} was {old} and is {new}"
        for name, (old, new) in changes.items()
        if name not in _FREE
        and not any(_is_meant(each, name) for each in allowed)
        and not (name == "training.steps" and (new or 0) > (old or 0))
    ]
    if refused:
        raise ValueError(
            f"the run was started with other settings: {'; '.join(refused)}; give those, or allow "
            "the change by name"
        )
    return changes


def _is_meant(given: str, name: str) -> bool:
    return given in (name, name.partition(".")[2])


def _leaves(description: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are compared, as JSON has them."""
    return {
        f"{section}.{name}": json.loads(json.dumps(value))
        for section in _COMPARED
        if isinstance(description.get(section), Mapping)
        for name, value in description[section].items()
    }
