"""`train_gpt_bpe.py` stopped in every way, and told to go on."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "llm_only" / "train_gpt_bpe.py"
pytestmark = pytest.mark.slow

SMALL = [
    *("--vocab-size", "300", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--dropout", "0.2"),
    *("--max-new-tokens", "8", "--device", "cpu", "--steps", "400", "--accumulation-steps", "2"),
    *("--save-every", "50", "--validate-every", "75", "--sample-every", "100"),
    *("--ema-decay", "0.9", "--max-tokens", "40"),
]
CODE = """
import runpy, sys
from pathlib import Path
from experiments.shared import configs
configs.CHECKPOINTS = Path(sys.argv.pop(1))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def start(checkpoints, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(checkpoints), str(SCRIPT), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def succeeded(checkpoints, *arguments):
    code, output, errors = finish(start(checkpoints, *arguments))
    assert code == 0, errors
    assert "Traceback" not in errors
    return output


def failed(checkpoints, *arguments):
    """The one line that says why."""
    code, _, errors = finish(start(checkpoints, *arguments))
    assert code == 1
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    text = "".join(f"Line {i}: the cat sat on mat {i}. Строка {i}: кошка.\n" for i in range(300))
    (folder / "text.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The arguments of a run, and what it leaves when nobody stops it."""
    checkpoints = tmp_path_factory.mktemp("whole")
    arguments = ["--data", str(corpus), "--run", "mine", *SMALL]
    succeeded(checkpoints, *arguments)
    return arguments, left_by(checkpoints / "mine")


def left_by(run_folder):
    lines = [
        {key: value for key, value in json.loads(line).items() if key != "tokens_per_second"}
        for line in (run_folder / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    return (run_folder / "final" / "model.safetensors").read_bytes(), lines


def wait_for(run_folder, pattern):
    """Until there is such a path in the folder."""
    for _ in range(3000):
        if any(run_folder.glob(pattern)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no {pattern}")


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(whole, tmp_path):
    arguments, expected = whole
    rng, run_folder = random.Random(0), tmp_path / "mine"
    killed = 0
    for _ in range(3):
        has_checkpoint = any(run_folder.glob("step-??????"))
        process = start(tmp_path, *(["--run", "mine", "--resume"] if has_checkpoint else arguments))
        wait_for(run_folder, f"step-{50 * (killed + 1):06d}")
        time.sleep(rng.random() * 0.2)
        process.kill()
        killed += finish(process)[0] == -signal.SIGKILL
    assert killed >= 2
    succeeded(tmp_path, "--run", "mine", "--resume")
    assert left_by(run_folder) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_says_how_to_go_on(whole, tmp_path, number):
    arguments, expected = whole
    process = start(tmp_path, *arguments)
    wait_for(tmp_path / "mine", "step-000050")
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 128 + number
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    match = re.fullmatch(rf"stopped: {number.name} after step (\d+): resume from (.*)", last)
    assert match, last
    assert Path(match[2]).name == f"step-{int(match[1]):06d}"
    output = succeeded(tmp_path, "--resume", match[2])
    assert f"resumed from {match[2]}" in output
    assert left_by(tmp_path / "mine") == expected


def test_a_finished_run_says_so_and_takes_more_steps(whole, tmp_path):
    arguments, _ = whole
    few = [*arguments, "--steps", "4", "--save-every", "2", "--validate-every", "0"]
    succeeded(tmp_path, *few)
    assert "finished after 4 steps" in succeeded(tmp_path, "--resume")
    assert "Trained 6 steps" in succeeded(tmp_path, "--resume", "--steps", "6")
    again = failed(tmp_path, *few)
    assert "mine exists already" in again
    other = failed(tmp_path, "--resume", "--seed", "7")
    assert "training.seed was 0 and is 7" in other
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "notes.txt is not of a run" in failed(tmp_path, *few, "--overwrite")
    (tmp_path / "mine" / "notes.txt").unlink()
    assert "Trained 4 steps" in succeeded(tmp_path, *few, "--overwrite")


def test_another_text_is_refused(whole, tmp_path, corpus):
    arguments, _ = whole
    succeeded(tmp_path, *arguments, "--steps", "2", "--save-every", "1")
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 500)
    line = failed(tmp_path, "--resume", "--data", str(other))
    assert "fingerprints.train_dataset was" in line


def test_damage_is_said_and_an_older_checkpoint_taken(whole, tmp_path):
    arguments, _ = whole
    succeeded(tmp_path, *arguments, "--steps", "3", "--save-every", "1")
    weights = tmp_path / "mine" / "step-000003" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    output = succeeded(tmp_path, "--resume")
    assert re.search(r"step-000003/model\.safetensors is damaged", output)
    assert "Trained 3 steps" in output
    for folder in (tmp_path / "mine").glob("step-??????"):
        (folder / "tokenizer.json").unlink()
    assert "no checkpoint to resume from" in failed(tmp_path, "--resume")


def test_two_processes_do_not_write_one_run(whole, tmp_path):
    arguments, _ = whole
    first = start(tmp_path, *arguments, "--steps", "100000")
    wait_for(tmp_path / "mine", "step-000050")
    line = failed(tmp_path, "--resume", "--steps", "100000")
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0] == 143
    assert "another process writes into" in line


def test_the_script_proves_that_resuming_is_exact(whole, tmp_path):
    arguments, _ = whole
    assert "the same bits" in succeeded(tmp_path, *arguments, "--verify-resume")
    assert list(tmp_path.iterdir()) == []
