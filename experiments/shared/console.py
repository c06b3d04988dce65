"""How a script speaks: arguments in, one line for each mistake."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

Settings = TypeVar("Settings")


def parse_arguments(
    settings: type[Settings], default: Settings, arguments: Sequence[str], *, prog: str
) -> Settings:
    """Override the values of `default` with what stands on the command line.

    Raises:
        ValueError: an argument is unknown, is not text, or its value is of the
            wrong type.
        SystemExit: `--help` was asked for, and printed.
    """
    check_arguments(arguments)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                settings,
                default=default,
                args=list(arguments),
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
    raise ValueError(f"{_first_part(message.getvalue())}; {prog} --help lists the options")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ValueError if an argument is no text, so that no file can have the name either."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the argument {argument!r} is not valid UTF-8") from None
        if "\0" in argument:  # not from a shell
            raise ValueError(f"the argument {argument!r} holds a NUL character")


def run_script(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a script's main function and exit: a mistake is one line on stderr.

    `--debug` shows the traceback as well.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    for output in (sys.stdout, sys.stderr):
        # a console that cannot show a character shows another, and the work goes on
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")
    who = "" if is_main_process() else f"rank {os.environ['RANK']}: "
    if who:
        # of the processes that torchrun started, one speaks; the others still say what fails
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        # an end that was asked for says which code the shell expects
        exit_code = getattr(error, "exit_code", None)
        what = "stopped" if exit_code else "error"
        print(f"{who}{what}: {_one_line(error)}", file=sys.stderr)
        sys.exit(exit_code or 1)
    sys.exit(0)


def is_main_process() -> bool:
    """Whether this is the one process, of those that torchrun started, that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def is_restarted() -> bool:
    """Whether torchrun has started the script again, after one of its processes died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def show_log() -> None:
    """Print what the libraries log, past the progress bar."""
    logger = logging.getLogger("llm")
    logger.setLevel(logging.INFO)
    logger.addHandler(_AboveProgressBar())


class _AboveProgressBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}"
    message = " ".join(str(error).split()) or "no reason given"
    # the libraries raise these with a message for the user; others are our mistakes
    if isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("llm."):
        return message
    return f"{type(error).__name__}: {message}; --debug shows where"


def _first_part(box: str) -> str:
    """What a box of text says between its title and its first rule."""
    lines: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │")
        # where the console knows no box characters, rules are of "-", and one is below the title
        if not set(text) <= set("─╰╯-"):
            lines.append(text)
        elif lines:
            break
    # the name of a settings class says nothing to a user, that of a flag does
    return re.sub(r"^Error parsing \w+: ", "", " ".join(lines))
