"""Scripts called in this process, with a workspace of good and bad files around them."""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import re
import signal
import stat
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

SMALL = [
    *("--vocab-size", "300", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--max-new-tokens", "4"),
    *("--device", "cpu", "--steps", "2"),
]
SECONDS = 20


class Answer(NamedTuple):
    """What a script said, and how it ended."""

    code: int
    output: str
    errors: str


class _TooLongError(BaseException):
    """A script did not answer in time; no `except Exception` of its stops this."""


def _stop(*_):
    raise _TooLongError


@contextlib.contextmanager
def _within(seconds):
    """Stop what takes longer; a machine without these signals waits for it."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TooLongError:
        pytest.fail(f"no answer within {seconds} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _little_memory():
    """4 GB more than there are now: what asks for more fails, and harms no other process."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def call(monkeypatch, workspace):
    """Run a script in this process, in the workspace, with its runs in `runs`.

    `script` is its module below `experiments`.
    """

    def call(script, *arguments, checkpoints=None, seconds=SECONDS):
        main = importlib.import_module(f"experiments.{script}").main
        console = importlib.import_module("experiments.shared.console")
        checkpoints = workspace / "runs" if checkpoints is None else checkpoints
        with monkeypatch.context() as patch:
            patch.chdir(workspace)
            patch.setattr("experiments.shared.runs.CHECKPOINTS", checkpoints)
            patch.setattr(sys, "argv", ["script.py", *arguments])
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setattr(warnings, "showwarning", warnings.showwarning)
            logger = logging.getLogger("llm")
            handlers, level = logger.handlers[:], logger.level
            output, errors = io.StringIO(), io.StringIO()
            try:
                with (
                    contextlib.redirect_stdout(output),
                    contextlib.redirect_stderr(errors),
                    _little_memory(),
                    _within(seconds),
                    pytest.raises(SystemExit) as ended,
                ):
                    console.run_script(main)
            finally:
                logger.handlers[:] = handlers
                logger.setLevel(level)
        return Answer(ended.value.code, output.getvalue(), errors.getvalue())

    return call


@pytest.fixture
def refused(call, workspace):
    """Assert that a script answers a mistake with one line, and that nothing has changed.

    `message` is a pattern of the line: what is wrong, where, and what to do. Returns
    the line.
    """

    def refused(script, *arguments, message, checkpoints=None):
        before = fingerprint(workspace)
        answer = call(script, *map(str, arguments), checkpoints=checkpoints)
        lines = [line for line in answer.errors.splitlines() if line and not is_progress(line)]
        assert answer.code == 1, answer
        assert len(lines) == 1, answer.errors
        assert re.search(message, lines[0]), lines[0]
        assert lines[0].startswith("error: ")
        # that is for mistakes of ours
        assert "--debug shows where" not in lines[0]
        assert "Traceback" not in answer.errors
        assert fingerprint(workspace) == before
        return lines[0]

    return refused


def is_progress(line):
    """Whether a line is a progress bar's, or says what is being loaded."""
    return line.endswith(": loading") or re.search(r"\[\d\d:\d\d(<\S*)?,.*[/]\w+[\],]", line)


def fingerprint(folder):
    """Every path in a folder with what it is and what it holds."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            content = b""
            if stat.S_ISREG(mode):
                content = path.read_bytes() if path.lstat().st_size < 1 << 24 else b"large"
            elif stat.S_ISLNK(mode):
                content = os.readlink(path).encode()
            found[str(path)] = mode, hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Texts, good and bad, and a run of two steps."""
    folder = tmp_path_factory.mktemp("workspace").resolve()
    text = "".join(f"Line {i}: the cat sat on mat {i}. Строка {i}: кошка.\n" for i in range(120))
    contents = {
        "good.txt": text.encode(),
        "tiny.txt": b"a",
        "short.txt": b"one two three four five",
        "empty.txt": b"",
        "binary.bin": b"\x7fELF\x02\x01\x01\x00" + bytes(range(256)),
        "cyrillic.txt": "Кошка сидит на окне. ".encode("cp1251") * 99,
        "utf-16.txt": text.encode("utf-16"),
        "cut.txt": text.encode()[: text.encode().index("ш".encode()) + 1],
        "broken.json": b"{",
        "a.jsonl": b'{"body": "one"}\n' * 50,
        "not.jsonl": b"{broken\n",
        "hidden/.txt": b"hidden",
        "blank/a.txt": b"",
        "blank/b.txt": b"",
        "mixed/good.txt": text.encode(),
        "mixed/photo.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
        "texts/1.txt": text.encode(),
        "texts/2.txt": text.encode()[:999],
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("empty-folder", "piped", "looped", "runs"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "piped" / "pipe.txt")
    for link, target in {
        "loop": "loop",
        "looped/loop.txt": "loop.txt",
        "dangling": "nowhere",
        "zeros": "/dev/zero",
        "nothing": "/dev/null",
    }.items():
        (folder / link).symlink_to(target)
    with open(folder / "gigantic.txt", "wb") as file:
        file.truncate(1 << 40)  # takes no room
    return folder


@pytest.fixture(scope="session")
def trained(workspace):
    """The folder of a run of two steps in the workspace, and a folder of its token shards."""
    from experiments.llm_only import prepare_data, train_gpt_bpe
    from llm.tokenizers import BPETokenizer

    arguments = ["--data", str(workspace / "good.txt"), "--run", "trained", *SMALL]
    shards = ["--tokenizer", str(workspace / "runs" / "trained"), "--validation-fraction", "0.5"]
    shards += ["--data", str(workspace / "texts"), "--out", str(workspace / "shards")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.shared.runs.CHECKPOINTS", workspace / "runs")
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            train_gpt_bpe.main([*arguments, "--save-every", "1"])
            prepare_data.main([*shards, "--seed", "1"])
            other = BPETokenizer()
            other.train(["the dog"], 262, ["<eos>"])
            other.save(workspace / "other")
    return workspace / "runs" / "trained"
