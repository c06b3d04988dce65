"""`train_gpt_bpe.py` stopped in every way, and told to go on."""

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.script_processes import start, succeeded

SCRIPT = "experiments/llm_only/train_gpt_bpe.py"
pytestmark = pytest.mark.slow

# metrics of the clock
TIMED = ("tokens_per_second", "mfu")
SMALL = [
    *("--vocab-size", "300", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--dropout", "0.2"),
    *("--max-new-tokens", "8", "--device", "cpu", "--steps", "400", "--accumulation-steps", "2"),
    *("--save-every", "50", "--validate-every", "75", "--sample-every", "100"),
    *("--ema-decay", "0.9", "--max-tokens", "40"),
]


def begin(checkpoints, *arguments, **options):
    return start(SCRIPT, *arguments, checkpoints=checkpoints, **options)


def output_of(checkpoints, *arguments, **options):
    return succeeded(begin(checkpoints, *arguments, **options).finish())


def refusal(checkpoints, *arguments):
    """The one line that says why."""
    process = begin(checkpoints, *arguments).finish()
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    return process.stderr.strip().splitlines()[-1]


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
    # an interpreter that orders sets as those of the tests do not
    output_of(checkpoints, *arguments, real=True)
    return arguments, left_by(checkpoints / "mine")


def left_by(run_folder):
    lines = [
        {key: value for key, value in json.loads(line).items() if key not in TIMED}
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
        process = begin(tmp_path, *(["--run", "mine", "--resume"] if has_checkpoint else arguments))
        wait_for(run_folder, f"step-{50 * (killed + 1):06d}")
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(60) == -signal.SIGKILL
    assert killed >= 2
    output_of(tmp_path, "--run", "mine", "--resume")
    assert left_by(run_folder) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_says_how_to_go_on(whole, tmp_path, number):
    arguments, expected = whole
    process = begin(tmp_path, *arguments)
    wait_for(tmp_path / "mine", "step-000050")
    process.send_signal(number)
    ended = process.finish()
    assert ended.returncode == 128 + number
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    match = re.fullmatch(rf"stopped: {number.name} after step (\d+): resume from (.*)", last)
    assert match, last
    assert Path(match[2]).name == f"step-{int(match[1]):06d}"
    output = output_of(tmp_path, "--resume", match[2])
    assert f"resumed from {match[2]}" in output
    assert left_by(tmp_path / "mine") == expected


def test_a_finished_run_says_so_and_takes_more_steps(whole, tmp_path):
    arguments, _ = whole
    few = [*arguments, "--steps", "4", "--save-every", "2", "--validate-every", "0"]
    output_of(tmp_path, *few)
    assert "finished after 4 steps" in output_of(tmp_path, "--resume")
    assert "Trained 6 steps" in output_of(tmp_path, "--resume", "--steps", "6")
    again = refusal(tmp_path, *few)
    assert "mine exists already" in again
    other = refusal(tmp_path, "--resume", "--seed", "7")
    assert "training.seed was 0 and is 7" in other
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "notes.txt is not of a run" in refusal(tmp_path, *few, "--overwrite")
    (tmp_path / "mine" / "notes.txt").unlink()
    assert "Trained 4 steps" in output_of(tmp_path, *few, "--overwrite")


def test_another_text_is_refused(whole, tmp_path, corpus):
    arguments, _ = whole
    output_of(tmp_path, *arguments, "--steps", "2", "--save-every", "1")
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 500)
    line = refusal(tmp_path, "--resume", "--data", str(other))
    assert "fingerprints.train_dataset was" in line


def test_damage_is_said_and_an_older_checkpoint_taken(whole, tmp_path):
    arguments, _ = whole
    output_of(tmp_path, *arguments, "--steps", "3", "--save-every", "1")
    weights = tmp_path / "mine" / "step-000003" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    output = output_of(tmp_path, "--resume")
    assert re.search(r"step-000003/model\.safetensors is damaged", output)
    assert "Trained 3 steps" in output
    for folder in (tmp_path / "mine").glob("step-??????"):
        (folder / "tokenizer.json").unlink()
    assert "no checkpoint to resume from" in refusal(tmp_path, "--resume")


def test_two_processes_do_not_write_one_run(whole, tmp_path):
    arguments, _ = whole
    first = begin(tmp_path, *arguments, "--steps", "100000")
    wait_for(tmp_path / "mine", "step-000050")
    line = refusal(tmp_path, "--resume", "--steps", "100000")
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143
    assert "another process writes into" in line


def test_the_script_proves_that_resuming_is_exact(whole, tmp_path):
    arguments, _ = whole
    assert "the same bits" in output_of(tmp_path, *arguments, "--verify-resume")
    assert list(tmp_path.iterdir()) == []
