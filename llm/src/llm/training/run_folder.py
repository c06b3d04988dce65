"""The folder of a training run: one writer, its description, and its metrics.

checkpoints/<run>/
    run.json         what was run
    run.lock         held by the one process that writes
    metrics.jsonl    a line for each thing that was measured
    tensorboard/     the same, for programs that show it (`llm.training.metric_loggers`)
    trackio/
    step-000200/     checkpoints (`llm.training.checkpoint`)
    final/           the trained model
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm.core.files import read_json, write_json
from llm.training.checkpoint import (
    ASIDE_FOLDER,
    STEP_FOLDER,
    UNFINISHED_FOLDER,
    list_checkpoints,
    set_aside,
    verify_checkpoint,
)

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
FINAL_FOLDER = "final"
TENSORBOARD_FOLDER = "tensorboard"
TRACKIO_FOLDER = "trackio"
# what the scripts add to a run
PLOT_FILE = "loss.png"
EVALUATION_FILES = ("evaluation.json", "report.html")

LOG_FOLDERS = (TENSORBOARD_FOLDER, TRACKIO_FOLDER)

_FILES = {METRICS_FILE, RUN_FILE, LOCK_FILE, PLOT_FILE, *EVALUATION_FILES}
_FOLDERS = {FINAL_FOLDER, *LOG_FOLDERS}
# What a write that a crash cut short leaves behind.
_TEMPORARY_FILE = re.compile(r"\..+\.tmp")


class RunInUseError(RuntimeError):
    """Another process writes into the run folder."""


class RunFolder:
    """A run on disk.

    Args:
        path: the folder, which need not be there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK_FILE, timeout=0)

    @property
    def is_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / RUN_FILE).is_file()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer; the operating system ends that however the process dies.

        Raises:
            RunInUseError: another process is.
            OSError: the folder cannot be written into.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunInUseError(
                f"another process writes into {self.path}: wait for it, or stop it first"
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def check_new(self) -> None:
        """Raise FileExistsError if the folder holds anything, a run or not."""
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file, not a folder for a run")
        if self.is_run:
            raise FileExistsError(
                f"{self.path} holds a run already: resume it, or choose another folder"
            )
        if self.path.exists() and not all(map(_is_of_start, self.path.iterdir())):
            raise FileExistsError(f"{self.path} is not empty, and no run: choose another folder")

    def start(self, description: Mapping[str, Any]) -> None:
        """Begin a run.

        Raises:
            FileExistsError: as `check_new`.
            OSError: it cannot be written.
        """
        with self.writing():
            self.check_new()
            self.remove_unfinished()
            write_json(self.path / RUN_FILE, description)

    def description(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            FileNotFoundError: no run was started here.
            ValueError: the file is damaged.
        """
        return read_json(self.path / RUN_FILE)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Put another description in the place of the one there is."""
        with self.writing():
            write_json(self.path / RUN_FILE, description)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        line = json.dumps(values, ensure_ascii=False)
        with open(self.path / METRICS_FILE, "a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the metrics."""
        path = self.path / METRICS_FILE
        if not path.exists():
            return []
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def flush_metrics(self) -> int:
        """Bring the metrics to the disk; how many bytes they are."""
        with open(self.path / METRICS_FILE, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_metrics(self, num_bytes: int) -> None:
        """Forget what was measured after the metrics were so long."""
        with open(self.path / METRICS_FILE, "ab") as file:
            if file.tell() < num_bytes:
                logger.warning(
                    "%s has %d bytes, where the checkpoint was written after %d: lines are lost",
                    *(self.path / METRICS_FILE, file.tell(), num_bytes),
                )
                return
            file.truncate(num_bytes)
            os.fsync(file.fileno())

    def newest_checkpoint(self) -> Path:
        """The newest checkpoint that verifies; damaged ones are named and set aside.

        Raises:
            FileNotFoundError: there is none.
        """
        damaged = 0
        for folder in reversed(list_checkpoints(self.path)):
            try:
                verify_checkpoint(folder)
            except (OSError, ValueError) as error:
                damaged += 1
                aside = set_aside(folder)
                logger.warning("%s; the checkpoint is now %s, an older one is tried", error, aside)
                continue
            if damaged:
                logger.warning("going on from %s", folder)
            return folder
        found = f"; {damaged} are damaged" if damaged else ""
        raise FileNotFoundError(f"{self.path} has no checkpoint to resume from{found}")

    def remove_unfinished(self) -> None:
        """Delete what a crash left of checkpoints and files that were being written."""
        for entry in self.path.iterdir():
            if UNFINISHED_FOLDER.fullmatch(entry.name) and entry.is_dir():
                shutil.rmtree(entry)
            elif _TEMPORARY_FILE.fullmatch(entry.name) and entry.is_file():
                entry.unlink()


def check_is_run(folder: Path) -> None:
    """Raise FileExistsError unless a folder holds a run, or its beginning, and nothing else."""
    run = RunFolder(folder)
    if folder.is_symlink() or not (run.is_run or all(map(_is_of_start, folder.iterdir()))):
        raise FileExistsError(f"{folder} is no run (it has no {RUN_FILE}): it is left alone")
    foreign = sorted(entry.name for entry in folder.iterdir() if not _is_of_run(entry))
    if foreign:
        raise FileExistsError(f"{folder / foreign[0]} is not of a run: {folder} is left alone")


def delete_run(folder: Path) -> None:
    """Delete a run folder, if it holds a run and nothing else.

    Raises:
        FileExistsError: as `check_is_run`; nothing is deleted.
        RunInUseError: a process writes into it.
    """
    check_is_run(folder)
    with RunFolder(folder).writing():
        # last, so that what a crash leaves is still a run to delete
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name in (RUN_FILE, LOCK_FILE))
        for entry in entries:
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK_FILE:
                entry.unlink()
    shutil.rmtree(folder)


def _is_of_start(entry: Path) -> bool:
    """Whether it is what a run leaves that a crash ended before it began."""
    return entry.name == LOCK_FILE or bool(_TEMPORARY_FILE.fullmatch(entry.name))


def _is_of_run(entry: Path) -> bool:
    if entry.is_symlink():
        return False
    if entry.is_dir():
        patterns = (STEP_FOLDER, ASIDE_FOLDER, UNFINISHED_FOLDER)
        return entry.name in _FOLDERS or any(p.fullmatch(entry.name) for p in patterns)
    return entry.name in _FILES or bool(_TEMPORARY_FILE.fullmatch(entry.name))
