"""Scripts in processes of their own, for tests: started, waited for, killed, and what they said.

Most of the seconds of a short script are those of `import torch` and its like. So a script is
forked from a process that has them (script_zygote.py), unless `real=True` asks for a new
interpreter. That is for what a fork cannot show: what is imported when and what an import says,
what the environment does at the start, that two processes with other seeds of string hashes do
the same, and that each script starts at all. Where there is no `os.fork`, all are real.
"""

import atexit
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
RUN_SCRIPT = str(TESTS / "run_script.py")

# what the scripts import that is not ours, and takes long
_MODULES = (
    *("torch", "torch._dynamo", "torch.distributed.checkpoint", "safetensors.torch"),
    *("matplotlib.pyplot", "tyro", "tqdm"),
)


class ScriptProcess:
    """A script that was started; `returncode` is None until `poll` or `wait` sees its end."""

    def __init__(self, command, environment, *, input, encoding, zygote):
        self._files = tempfile.TemporaryDirectory()
        folder = Path(self._files.name)
        self._output, self._errors = folder / "output", folder / "errors"
        (folder / "input").write_text(input, "utf-8")
        if zygote is None:
            with (
                open(folder / "input") as stdin,
                open(self._output, "w") as stdout,
                open(self._errors, "w") as stderr,
            ):
                self._process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env={**environment, "PYTHONIOENCODING": encoding},
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                )
            self.pid = self._process.pid
            self._poll = self._process.poll
        else:
            assert command[0] == RUN_SCRIPT
            self.pid = zygote.ask(
                "start",
                {
                    "command": command[1:],
                    "folder": str(ROOT),
                    "environment": environment,
                    "encoding": encoding,
                    **{name: str(folder / name) for name in ("input", "output", "errors")},
                },
            )
            self._poll = lambda: zygote.ask("poll", self.pid)
        self.returncode = None

    def poll(self):
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._poll()
        return self.returncode

    def wait(self, timeout):
        """The exit status; `subprocess.TimeoutExpired`, and a kill, after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(9)
                raise subprocess.TimeoutExpired("a script", timeout, stderr=self._read_errors())
            time.sleep(0.01)
        return self.returncode

    def finish(self, timeout=300):
        """Wait; the exit status and what was printed, as `subprocess.run` gives it."""
        code = self.wait(timeout)
        return subprocess.CompletedProcess(
            [], code, self._output.read_text("utf-8"), self._read_errors()
        )

    def send_signal(self, number):
        """Send a signal, if the process has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _read_errors(self):
        return self._errors.read_text("utf-8")


def start(script, *arguments, checkpoints="", real=False, input="", encoding="utf-8", **variables):
    """Start a script of the repository.

    Args:
        script: its path, from the repository's root.
        arguments: of the script.
        checkpoints: the folder for its runs.
        real: in a new interpreter.
        input: what it reads.
        encoding: of what it reads and prints.
        variables: of the environment, besides those of the tests.
    """
    command = [RUN_SCRIPT, str(checkpoints), str(ROOT / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    zygote = None if real or not hasattr(os, "fork") else _zygote()
    return ScriptProcess(command, environment, input=input, encoding=encoding, zygote=zygote)


def run(script, *arguments, timeout=300, **options):
    """Start a script, and wait for its end."""
    return start(script, *arguments, **options).finish(timeout)


def run_ranks(number, script, *arguments, timeout=300, **options):
    """Run a script in several processes that train together; what all print, one after the other.

    They have what torchrun gives them, and end when one of them fails.
    """
    import torch.distributed as dist

    # on a port that is free, and stays ours: as torchrun has it
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "WORLD_SIZE": number}
    shared |= {"LOCAL_WORLD_SIZE": number, "TORCHELASTIC_USE_AGENT_STORE": True}
    processes = [
        start(
            script,
            *arguments,
            **options,
            **{name: str(of) for name, of in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(number)
    ]
    end = time.monotonic() + timeout
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes) or time.monotonic() > end:
                break
            time.sleep(0.01)
    finally:
        for process in processes:
            process.send_signal(9)
    # the one that failed by itself says why
    ended = sorted((process.finish() for process in processes), key=lambda of: of.returncode == -9)
    return subprocess.CompletedProcess(
        [],
        next((of.returncode for of in ended if of.returncode), 0),
        "".join(of.stdout for of in ended),
        "".join(of.stderr for of in ended),
    )


def run_torchrun(number, script, *arguments, checkpoints="", timeout=300):
    """Run a script in several processes, as a user does: through torchrun."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(number), "--", RUN_SCRIPT]
    command += [str(checkpoints), str(ROOT / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return ScriptProcess(command, environment, input="", encoding="utf-8", zygote=None).finish(
        timeout
    )


def succeeded(process):
    """What a finished script printed; AssertionError if it failed."""
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout


def failed(process, message):
    """Assert that a finished script failed, with one line that has the pattern `message`."""
    assert process.returncode not in (0, None)
    assert process.stdout == ""
    lines = process.stderr.strip().splitlines()
    # said before torch is there
    (line,) = [line for line in lines if not line.endswith(": loading")]
    assert re.search(message, line), line


class _Zygote:
    """The process that forks, and what is asked of it."""

    def __init__(self):
        # to be read if it ends before it should
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "script_zygote.py"), *_MODULES],
            cwd=ROOT,
            # it has no threads, which a fork would lose
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answer()
        atexit.register(self._end)

    def ask(self, what, of):
        self._process.stdin.write(json.dumps([what, of]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self):
        if line := self._process.stdout.readline():
            return line
        self._errors.seek(0)
        raise RuntimeError(f"the process that forks has ended: {self._errors.read()}")

    def _end(self):
        self._process.stdin.close()
        self._process.wait()


_zygote = functools.cache(_Zygote)
