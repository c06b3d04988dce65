"""The process that `TrackioLogger` starts: lines on its standard input become a trackio run.

    python trackio_writer.py NAME

A line is JSON, [step, numbers by name, texts by name]. The environment's TRACKIO_DIR is
where the database will be. The process says "locked" when nobody else writes there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

# held for as long as the process may write
LOCK_FILE = ".writer.lock"


def main(name: str) -> None:
    """Write lines until there are no more; exit with what trackio could not do."""
    # modules of training have names of others' modules
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]
    import trackio

    failures: list[str] = []

    def note(message: Warning | str, category: Any, filename: str, *_: Any, **__: Any) -> None:
        # trackio never raises: it warns, and goes on without what it was given
        if "trackio" in Path(filename).parts:
            failures.append(str(message))

    warnings.showwarning = note
    run = trackio.init(project=name, name=name, embed=False, auto_log_cpu=False, auto_log_gpu=False)
    for line in sys.stdin.buffer:
        step, numbers, texts = json.loads(line)
        # as it is, not as Markdown
        shown = {
            key: trackio.Markdown(textwrap.indent(text, "    ", lambda _: True))
            for key, text in texts.items()
        }
        run.log({**numbers, **shown}, step=step)
    trackio.finish()  # type: ignore[no-untyped-call]
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    # a scheduler may tell every process to end: this one does when its input ends
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with FileLock(Path(os.environ["TRACKIO_DIR"]) / LOCK_FILE), open(os.devnull, "w") as nowhere:
        print("locked", flush=True)
        # what trackio prints
        sys.stdout = nowhere
        main(sys.argv[1])
