"""Checkpoints of a training run: complete, or not there.

`step-000200/` is a model folder with the state of training beside it, written
under a temporary name, flushed to disk, and only then renamed. `MANIFEST.json`
holds the size and SHA-256 of every file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llm.core.base_model import BaseModel
from llm.core.files import read_json, sha256, sync, write_json
from llm.tokenizers import BaseTokenizer
from llm.training.random_state import check_random_state
from llm.training.trainer_state import TrainerState

MANIFEST_FILE = "MANIFEST.json"
MANIFEST_FORMAT = 1
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "trainer_state.json"
STEP_FOLDER = re.compile(r"step-(\d{6,})")
# A checkpoint that is not to be gone on from, but not to be lost either.
ASIDE_FOLDER = re.compile(r"step-\d{6,}\.aside-\d+")
# What is being written, and what is being deleted.
UNFINISHED_FOLDER = re.compile(r"\..+\.(tmp|old)")


def save_model(folder: Path, model: BaseModel, tokenizer: BaseTokenizer | None) -> None:
    """Write a model folder, whole, in the place of the one there may be."""
    with _published(folder, replace=True) as temporary:
        _write_model(temporary, model, tokenizer)


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run_folder / f"step-{step:06d}"


def save_checkpoint(
    run_folder: Path,
    *,
    model: BaseModel,
    tokenizer: BaseTokenizer | None,
    optimizer: Optimizer,
    state: TrainerState,
) -> Path:
    """Write `step-…/` into the run folder; it is durable when this returns.

    Args:
        run_folder: of the run.
        model: in the state after `state.step`.
        tokenizer: the run's, or None.
        optimizer: whose state to keep, by parameter name.
        state: everything else that training needs.

    Raises:
        FileExistsError: there is a checkpoint of this step already.
    """
    folder = checkpoint_folder(run_folder, state.step)
    with _published(folder) as temporary:
        _write_model(temporary, model, tokenizer)
        save_file(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER_FILE)
        kind = type(optimizer).__name__
        write_json(temporary / STATE_FILE, {"optimizer": kind, **state.to_json()})
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(temporary.iterdir())
        }
        manifest = {"format": MANIFEST_FORMAT, "step": state.step, "files": files}
        write_json(temporary / MANIFEST_FILE, manifest)
    return folder


def verify_checkpoint(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: a file is missing, is not as it was written, or is foreign.
    """
    manifest = read_json(folder / MANIFEST_FILE)
    if manifest.get("format") != MANIFEST_FORMAT:
        raise ValueError(
            f"{folder / MANIFEST_FILE} has the format {manifest.get('format')!r}, not "
            f"{MANIFEST_FORMAT}: another version of llm wrote it"
        )
    named = STEP_FOLDER.fullmatch(folder.name)
    if named and manifest.get("step") != int(named[1]):
        raise ValueError(f"{folder / MANIFEST_FILE} is of step {manifest.get('step')!r}")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ValueError(f"{folder / MANIFEST_FILE} lists no files")
    there = {path.name for path in folder.iterdir()} - {MANIFEST_FILE}
    for name in sorted(set(files) - there):
        raise ValueError(f"{folder / name} is missing")
    for name in sorted(there - set(files)):
        raise ValueError(f"{folder / name} is not of this checkpoint")
    for name, written in files.items():
        path = folder / name
        if not isinstance(written, dict) or path.stat().st_size != written.get("size"):
            raise ValueError(f"{path} has {path.stat().st_size} bytes, not those that were written")
        if sha256(path) != written.get("sha256"):
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST_FILE}")


def load_checkpoint(folder: Path, model: BaseModel, optimizer: Optimizer) -> TrainerState:
    """Put a verified checkpoint's weights and optimizer state into these objects.

    Returns:
        The trainer's state.

    Raises:
        FileNotFoundError, ValueError: it is damaged, or of another model or
            optimizer; the objects are as they were.
    """
    verify_checkpoint(folder)
    content = read_json(folder / STATE_FILE)
    kind = content.pop("optimizer", None)
    if kind != type(optimizer).__name__:
        raise ValueError(
            f"{folder} holds the state of the optimizer {kind}, not of {type(optimizer).__name__}"
        )
    try:
        state = TrainerState.from_json(content)
        check_random_state(state.random)
    except ValueError as error:
        raise ValueError(f"{folder / STATE_FILE}: {error}") from None
    saved = type(model).from_pretrained(folder)
    # as they are on disk: a field left open and one spelt out are the same model
    written = model.hf_format.config_to_hf
    if written(saved.config) != written(model.config):
        raise ValueError(f"{folder} holds a model of another configuration")
    try:
        tensors = load_file(folder / OPTIMIZER_FILE)
        optimizer_state = _optimizer_state(model, optimizer, tensors)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder / OPTIMIZER_FILE} cannot be read: {error}") from None
    model.load_state_dict(saved.state_dict())
    optimizer.load_state_dict(optimizer_state)
    return state


def list_checkpoints(run_folder: Path, *, after: int = -1) -> list[Path]:
    """The checkpoints of a run after a step, oldest first; an unfinished one is none."""
    steps = {
        int(match[1]): path
        for path in run_folder.iterdir()
        if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    }
    return [steps[step] for step in sorted(steps) if step > after]


def prune_checkpoints(run_folder: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    for folder in list_checkpoints(run_folder)[:-keep]:
        if best_step is None or folder != checkpoint_folder(run_folder, best_step):
            _delete(folder)


def set_aside(folder: Path) -> Path:
    """Give a checkpoint a name under which nobody goes on from it; the new folder."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.aside-{number}")).exists():
        number += 1
    os.rename(folder, aside)
    sync(folder.parent)
    return aside


@contextmanager
def _published(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder`, which becomes it if the block succeeds."""
    if folder.exists() and not replace:
        raise FileExistsError(f"{folder} is there already")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        if folder.exists():
            _delete(folder)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(folder.parent)


def _delete(folder: Path) -> None:
    # under another name first: what a crash leaves of it is no checkpoint
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _write_model(folder: Path, model: BaseModel, tokenizer: BaseTokenizer | None) -> None:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(folder)


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `field.parameter name`: tensor."""
    return {
        f"{field}.{name}": torch.as_tensor(value).detach().contiguous()
        for name, parameter in model.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def _optimizer_state(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The state dict that `_optimizer_tensors` came from.

    Raises:
        ValueError: it is not of these parameters.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        field, _, name = key.partition(".")
        states.setdefault(name, {})[field] = tensor
    # before the first step there is no state
    if states and states.keys() != set(order):
        raise ValueError("the optimizer's state is of other parameters than it has now")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, fields in states.items():
        for field, tensor in fields.items():
            # beside what is kept for each weight there are single numbers, such as the step
            if tensor.shape not in (shapes[name], torch.Size([])) or not tensor.is_floating_point():
                raise ValueError(
                    f"{field}.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, for a "
                    f"parameter of shape {tuple(shapes[name])}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{field}.{name} holds a number that is not finite")
    index = {i: states[name] for i, name in enumerate(order) if name in states}
    return {**optimizer.state_dict(), "state": index}
