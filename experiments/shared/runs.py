"""Runs: the folders of checkpoints/, made and found."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.shared.configs import CHECKPOINTS, relative

_STEP = re.compile(r"(step|checkpoint)-\d+")


def new_run_folder(run: str, kind: str, *, overwrite: bool = False) -> Path:
    """A new folder for a run, made before the work that it is for.

    Args:
        run: its name; empty for `kind` and the time.
        kind: of run, such as the model's type.
        overwrite: it may be that of a run, which `delete_run` is to delete before
            another begins.

    Raises:
        FileExistsError: there is a run of that name, or a folder that is no run.
        OSError: it cannot be made.
    """
    folder = relative(CHECKPOINTS / (run or f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(not _is_of_start(entry.name) for entry in folder.iterdir())
    except OSError as error:
        raise OSError(
            f"the run folder {folder} cannot be made: {error.strerror}; choose another --run, or "
            f"make {relative(CHECKPOINTS)} a folder that can be written to"
        ) from None
    if taken and overwrite:
        from llm.training import check_is_run

        check_is_run(folder)
    elif taken:
        raise FileExistsError(f"{folder} exists already: choose another --run, or delete it")
    return folder


@contextmanager
def removed_if_empty(run_folder: Path | None) -> Iterator[None]:
    """Leave no empty folder behind when the work ends before anything was written."""
    try:
        yield
    finally:
        if run_folder is not None:
            # one with something in it stays
            with suppress(OSError):
                run_folder.rmdir()


def find_run(run: str, *, train_command: str) -> Path:
    """The folder of a run that was trained here.

    Args:
        run: its name or folder; empty for the newest.
        train_command: what makes a run, for the errors to name.

    Raises:
        FileNotFoundError: there is no such run.
    """
    if run:
        # False also for a name that no folder can have
        named = [folder for folder in (CHECKPOINTS / run, Path(run)) if os.path.isdir(folder)]
        if not named:
            raise FileNotFoundError(
                f"there is no run {run!r} in {relative(CHECKPOINTS)}; "
                f"{train_command} --run NAME makes one"
            )
        return relative(named[0])
    return relative(_runs_by_age(train_command)[-1])


def find_model(run: str, *, train_command: str) -> Path:
    """The model folder of a run: its `final/`, or the newest checkpoint.

    Args:
        run: a run's name or folder, or a model folder; empty for the newest
            run that has a model.
        train_command: what makes a run, for the errors to name.

    Raises:
        FileNotFoundError: there is no such run, or it has no model yet.
    """
    if run:
        runs = [find_run(run, train_command=train_command)]
    else:
        runs = list(reversed(_runs_by_age(train_command)))
    for folder in runs:
        # longer names are later steps; transformers' Trainer calls its own checkpoint-…
        steps = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)]
        steps.sort(key=lambda path: (len(path.name), path.name))
        for candidate in (folder, folder / "final", *reversed(steps)):
            if (candidate / "config.json").is_file():
                return candidate
    raise FileNotFoundError(
        f"{relative(runs[0])} holds no model: there is no config.json in it, its final/ or a "
        f"checkpoint; {train_command} makes a new run"
    )


def _runs_by_age(train_command: str) -> list[Path]:
    files = sorted(CHECKPOINTS.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"there is no run yet; {train_command} makes one")
    return [file.parent for file in files]


def _is_of_start(name: str) -> bool:
    # what a run leaves that was killed before it began
    return name == "run.lock" or (name.startswith(".") and name.endswith(".tmp"))


def read_prompts() -> Iterator[str]:
    """Lines that the user types, until an empty one or the end."""
    print("Type the beginning of a text; an empty line ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        # without a standard input there are no prompts
        line = sys.stdin.readline().rstrip("\r\n") if sys.stdin else ""
        if not line:
            return
        yield line
