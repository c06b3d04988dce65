"""Metrics as trackio shows them, HuggingFace's local-first tracker.

Reference: https://huggingface.co/docs/trackio
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from llm.training.metric_loggers import flat_line
from llm.training.run_folder import TRACKIO_FOLDER
from llm.training.trackio_writer import LOCK_FILE

_WRITER = Path(__file__).with_name("trackio_writer.py")
# that send what is logged elsewhere; `trackio sync` does so afterwards
_ONLINE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
# seconds to write what is left
_PATIENCE = 60


class TrackioLogger:
    """Writes trackio's database into the run's `trackio/`: TRACKIO_DIR=… trackio show.

    Through a process of its own: trackio keeps one folder a process, imports a web
    server, prints, and, where there is a HuggingFace token, asks HuggingFace whose it is.
    There it is offline. When the training dies, the process writes what it has and ends.

    trackio can go on with a run, but not take steps back: the database is written anew,
    and its times are those of the writing.
    """

    def begin(self, run_folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Start the process, and give it these lines."""
        folder = (run_folder / TRACKIO_FOLDER).absolute()
        folder.mkdir(exist_ok=True)
        # the process of a training that was killed may still be writing
        with FileLock(folder / LOCK_FILE, timeout=_PATIENCE):
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != LOCK_FILE:
                    entry.unlink()
        environment = {name: value for name, value in os.environ.items() if name not in _ONLINE}
        # a pipe that nobody reads could fill, and hold the training up
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(_WRITER), run_folder.absolute().name],
            env={**environment, "TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C is for the training, which closes this
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as locked:
            locked.readline()
        for line in lines:
            self._send(line)

    def log(self, line: Mapping[str, Any]) -> None:
        """Give it a line."""
        self._send(line)

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            RuntimeError: it could not be.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            if self._process.wait(_PATIENCE):
                raise RuntimeError(self._reason())
        finally:
            self._errors.close()

    def _send(self, line: Mapping[str, Any]) -> None:
        numbers, texts = flat_line(line)
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps([line["step"], numbers, texts]).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            self._process.wait(_PATIENCE)
            raise RuntimeError(self._reason()) from None

    def _reason(self) -> str:
        """The last that the process said."""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return said.splitlines()[-1] if said else f"exit code {self._process.returncode}"
