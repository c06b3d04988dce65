"""Where metrics go besides `metrics.jsonl`, which stays the authority.

A logger's record is a view of that file: when it begins it is given the lines that the
file has, and holds these and no others. So a resumed run has no step twice, whatever
was logged after the checkpoint, lost in a crash, or trained without the logger.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llm.core.config import check_choice
from llm.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class MissingPackageError(ImportError):
    """A logger was asked for whose package is not installed; the message names the extra."""


@runtime_checkable
class MetricLogger(Protocol):
    """A place for metrics. An error that a method raises ends the logger, not the training."""

    def begin(self, run_folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hold these lines of `metrics.jsonl` and no others; after `close`, anew.

        Args:
            run_folder: of the run.
            lines: what was measured up to now, each with its `step`; `flat_line` has
                the numbers and texts of one.
        """

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line."""

    def close(self) -> None:
        """Bring what was added to where it is kept."""


def flat_line(line: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers and the texts of a line of metrics, `a/b` for what is nested.

    The step is left out, and so is what has no value. A prompt stands before its sample.
    """
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in _leaves(line, ""):
        if isinstance(value, (int, float)):
            numbers[name] = value
        elif isinstance(value, str):
            texts[name] = value
    if "sample" in texts:
        texts["sample"] = texts.pop("prompt", "") + texts["sample"]
    numbers.pop("step", None)
    return numbers, texts


def _leaves(line: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


class MetricLoggers:
    """The loggers of a run; one that fails is left out, with a warning.

    Args:
        loggers: "tensorboard", "trackio", or loggers of your own.

    Raises:
        MissingPackageError: the package of one is not installed.
        ValueError: a name is unknown, or given twice.
        TypeError: something is no logger.
    """

    def __init__(self, loggers: Sequence[str | MetricLogger]) -> None:
        if isinstance(loggers, str):
            raise TypeError("loggers is one string; give a list")
        names = [each for each in loggers if isinstance(each, str)]
        if len(set(names)) < len(names):
            raise ValueError(f"loggers={loggers!r} names one twice")
        self._loggers = [_make(each) if isinstance(each, str) else each for each in loggers]
        for each in self._loggers:
            if not isinstance(each, MetricLogger):
                raise TypeError(f"{each!r} is no logger: it needs begin, log and close")
        self._begun: list[MetricLogger] | None = None
        self._depth = 0

    def log(self, run: RunFolder, line: Mapping[str, Any]) -> None:
        """Pass on the line that `run`'s metrics end with."""
        if self._begun is None:
            self._begun = list(self._loggers)
            self._each(lambda each: each.begin(run.path, run.metrics()))
        else:
            self._each(lambda each: each.log(line))

    @contextmanager
    def closed_after(self) -> Iterator[None]:
        """Close them however the block ends; of nested blocks, the outermost."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.close()

    def close(self) -> None:
        """Close those that have begun; the next line begins them anew."""
        if self._begun is not None:
            self._each(lambda each: each.close())
            self._begun = None

    def _each(self, act: Callable[[MetricLogger], None]) -> None:
        for each in list(self._begun or ()):
            try:
                act(each)
            except Exception as error:
                assert self._begun is not None
                self._begun.remove(each)
                logger.warning(
                    "%s failed, and is left out from here on (metrics.jsonl goes on): %s: %s",
                    *(type(each).__name__, type(error).__name__, error),
                )


def _make(name: str) -> MetricLogger:
    """The logger of this name; its package is imported when it begins."""
    # not before it is asked for
    from llm.training.tensorboard_logger import TensorBoardLogger
    from llm.training.trackio_logger import TrackioLogger

    check_choice("logger", name, ("tensorboard", "trackio"))
    if importlib.util.find_spec(name) is None:
        raise MissingPackageError(
            f"the logger {name} needs a package that is not installed: install llm[{name}], or "
            f"{name} itself"
        )
    return TensorBoardLogger() if name == "tensorboard" else TrackioLogger()
