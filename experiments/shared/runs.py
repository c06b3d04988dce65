"""Runs: the folders of checkpoints/, made and found."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.shared.configs import CHECKPOINTS, relative

_STEP = re.compile(r"(step|checkpoint)-\d+")


def new_run_folder(run: str, kind: str, *, overwrite: bool = False) -> Path:
    """A new folder for a run, made before the work that it is for.

    Args:
        run: its name; empty for `kind` and the time.
        kind: of run, such as the model's type.
        overwrite: delete the run that has the name.

    Raises:
        FileExistsError: there is a run of that name, or a folder that is no run.
        RunInUseError: the run to delete is being written.
        OSError: it cannot be made.
    """
    folder = relative(CHECKPOINTS / (run or f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(not _is_of_start(entry.name) for entry in folder.iterdir())
    except OSError as error:
        raise OSError(f"the run folder {folder} cannot be made: {error.strerror}") from None
    if taken and overwrite:
        from llm.training import delete_run

        delete_run(folder)
        folder.mkdir()
    elif taken:
        raise FileExistsError(f"{folder} exists already: choose another --run, or delete it")
    return folder


def find_run(run: str, *, train_command: str) -> Path:
    """The folder of a run that was trained here.

    Args:
        run: its name or folder; empty for the newest.
        train_command: what makes a run, for the errors to name.

    Raises:
        FileNotFoundError: there is no such run.
    """
    if run:
        named = [folder for folder in (CHECKPOINTS / run, Path(run)) if folder.is_dir()]
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
