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
from llm.core.model_folder import write_model_folder
from llm.tokenizers import BaseTokenizer
from llm.training.average import WeightAverage
from llm.training.parallel import is_sharded, set_weights, share_like, whole, whole_weights
from llm.training.random_state import check_random_state
from llm.training.ranks import Ranks
from llm.training.trainer_state import TrainerState

MANIFEST_FILE = "MANIFEST.json"
MANIFEST_FORMAT = 1
OPTIMIZER_FILE = "optimizer.safetensors"
# the shares of ranks, in place of the file
OPTIMIZER_FOLDER = "optimizer"
AVERAGE_FOLDER = "ema"
STATE_FILE = "trainer_state.json"
STEP_FOLDER = re.compile(r"step-(\d{6,})")
# A checkpoint that is not to be gone on from, but not to be lost either.
ASIDE_FOLDER = re.compile(r"step-\d{6,}\.aside-\d+")
# What is being written, and what is being deleted.
UNFINISHED_FOLDER = re.compile(r"\..+\.(tmp|old)")


def save_model(folder: Path, model: BaseModel, tokenizer: BaseTokenizer | None) -> None:
    """Write a model folder, whole, in the place of the one there may be.

    All ranks call this; the main one writes.
    """
    is_main = Ranks.current().is_main
    weights = whole_weights(model, keep=is_main)
    if is_main:
        with _published(folder, replace=True) as temporary:
            _write_model(temporary, model, weights, tokenizer)


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
    average: WeightAverage | None = None,
) -> Path:
    """Write `step-…/` into the run folder; it is durable when this returns on the main rank.

    All ranks call this; the main one writes. Of a sharded model each rank writes its
    share of the optimizer's state.

    Args:
        run_folder: of the run.
        model: in the state after `state.step`.
        tokenizer: the run's, or None.
        optimizer: whose state to keep, by parameter name.
        state: everything else that training needs.
        average: of the weights, if there is one: a model folder of its own, `ema/`.

    Raises:
        FileExistsError: there is a checkpoint of this step already.
    """
    folder = checkpoint_folder(run_folder, state.step)
    ranks = Ranks.current()
    is_main = ranks.is_main
    weights = whole_weights(model, keep=is_main)
    tensors = _optimizer_tensors(model, optimizer)
    if average is not None:
        with average.in_place(model):
            averaged = {k: v.clone() for k, v in whole_weights(model, keep=is_main).items()}
    if not is_main:
        if is_sharded(model):
            # the folder is the main rank's to make, which first clears its place
            ranks.meet()
            _save_shards(_temporary(folder) / OPTIMIZER_FOLDER, tensors)
        return folder
    with _published(folder) as temporary:
        _write_model(temporary, model, weights, tokenizer)
        if average is not None:
            _write_model(temporary / AVERAGE_FOLDER, model, averaged, tokenizer)
        if is_sharded(model):
            ranks.meet()
            _save_shards(temporary / OPTIMIZER_FOLDER, tensors)
        else:
            save_file(tensors, temporary / OPTIMIZER_FILE)
        kind = type(optimizer).__name__
        write_json(temporary / STATE_FILE, {"optimizer": kind, **state.to_json()})
        files = {
            name: {"size": path.stat().st_size, "sha256": sha256(path)}
            for name, path in _files(temporary).items()
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
    there = _files(folder).keys() - {MANIFEST_FILE}
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


def load_checkpoint(
    folder: Path, model: BaseModel, optimizer: Optimizer, average: WeightAverage | None = None
) -> TrainerState:
    """Put a verified checkpoint's weights and optimizer state into these objects.

    An average begins with the weights where the checkpoint has none. A model may be
    sharded among other ranks than those that wrote the checkpoint, or not at all.

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
    weights = _read_weights(folder, model)
    if average is not None and (folder / AVERAGE_FOLDER).is_dir():
        averaged = _read_weights(folder / AVERAGE_FOLDER, model)
    else:
        averaged = weights
    source = folder / OPTIMIZER_FOLDER
    try:
        if source.is_dir():
            # a second's import, of which few runs have need
            from llm.training.sharded_tensors import load_shards

            tensors = load_shards(source, lambda key: _parameter_of(key, model))
        else:
            source = folder / OPTIMIZER_FILE
            tensors = load_file(source)
        optimizer_state = _optimizer_state(model, optimizer, tensors)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{source} cannot be read: {error}") from None
    set_weights(model, weights)
    optimizer.load_state_dict(optimizer_state)
    if average is not None:
        average.load(averaged)
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
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
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


def _temporary(folder: Path) -> Path:
    """What `folder` is called while it is written."""
    return folder.with_name(f".{folder.name}.tmp")


def _files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its place there."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


def _write_model(
    folder: Path,
    model: BaseModel,
    weights: Mapping[str, Tensor],
    tokenizer: BaseTokenizer | None,
) -> None:
    write_model_folder(folder, model.hf_format, model.config, weights)
    if tokenizer is not None:
        tokenizer.save(folder)


def _read_weights(folder: Path, model: BaseModel) -> Mapping[str, Tensor]:
    """The weights of a model folder, which must be of this model."""
    saved = type(model).from_pretrained(folder)
    # as they are on disk: a field left open and one spelt out are the same model
    written = model.hf_format.config_to_hf
    if written(saved.config) != written(model.config):
        raise ValueError(f"{folder} holds a model of another configuration")
    return saved.state_dict()


def _save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from llm.training.sharded_tensors import save_shards

    save_shards(folder, tensors)


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `field.parameter name`: tensor."""
    return {
        f"{field}.{name}": torch.as_tensor(value).detach().contiguous()
        for name, parameter in model.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def _parameter_of(key: str, model: nn.Module) -> Tensor:
    """The parameter that a tensor of `_optimizer_tensors` belongs to."""
    name = key.partition(".")[2]
    parameter = dict(model.named_parameters()).get(name)
    if parameter is None:
        raise ValueError(f"the model has no parameter {name!r}")
    return parameter


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
    parameters = dict(model.named_parameters())
    for name, fields in states.items():
        for field, tensor in fields.items():
            # beside what is kept for each weight there are single numbers, such as the step
            shape = parameters[name].shape
            if tensor.shape not in (shape, torch.Size([])) or not tensor.is_floating_point():
                raise ValueError(
                    f"{field}.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, for a "
                    f"parameter of shape {tuple(shape)}"
                )
            if not bool(whole(torch.isfinite(tensor).all())):
                raise ValueError(f"{field}.{name} holds a number that is not finite")
            fields[field] = share_like(tensor, parameters[name]) if tensor.dim() else tensor
    index = {i: states[name] for i, name in enumerate(order) if name in states}
    return {**optimizer.state_dict(), "state": index}
