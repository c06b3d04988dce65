"""The training script with --log, and what it says at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

SMALL = [
    *("--embed-dim", "16", "--num-heads", "2", "--num-layers", "1", "--vocab-size", "300"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--max-new-tokens", "8"),
    *("--device", "cpu", "--steps", "12", "--save-every", "5", "--validate-every", "5"),
    *("--log-every", "1", "--sample-every", "5"),
]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]
HERE = """
import runpy, sys
from pathlib import Path
from experiments.shared import configs
configs.CHECKPOINTS = Path(sys.argv[1])
sys.argv = ['experiments/llm_only/train_gpt_bpe.py', *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder for runs, with a text to train on."""
    folder = tmp_path_factory.mktemp("logs")
    (folder / "here.py").write_text(HERE)
    lines = [f"Line {number}: the cat sat on the mat. Кошка {number}.\n" for number in range(600)]
    (folder / "text.txt").write_text("".join(lines), "utf-8")
    return folder


def run(here, *arguments, ranks=(), environment=None):
    return subprocess.run(
        [sys.executable, *ranks, str(here / "here.py"), str(here / "runs"), *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8",
            **(environment or {}),
        },
        timeout=300,
    )


def succeeded(process):
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert "failed" not in process.stdout
    return process.stdout


def of_metrics(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], pytest.approx(line[name], rel=1e-7)) for line in lines if name in line]


def of_tensorboard(folder, name):
    events = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars(name)
    return [(event.step, event.value) for event in events]


def test_logs_lie_in_the_run_and_go_on_with_it(here):
    folder = here / "runs" / "logged"
    data = ["--data", str(here / "text.txt"), *SMALL]
    output = succeeded(run(here, "--run", "logged", *data, "--log", "tensorboard", "trackio"))
    tokens = max(step_tokens for _, step_tokens in tokens_of(folder))
    assert f"Trained 12 steps, {tokens:,} tokens, in " in output
    assert output.count("Trained") == 1
    said = output[output.index("Trained") : output.index("Try next")].splitlines()
    assert said[1].startswith("Best validation loss: ")
    assert f"The run is in {folder}:" in said
    names = [line.split()[0] for line in said if line.startswith("  ")]
    best = next(name for name in names if name.startswith("step-"))
    shown = ["final/", best, "metrics.jsonl", "tensorboard/", "trackio/", "loss.png"]
    assert names == shown
    assert all((folder / name).exists() for name in names)
    assert f"uv run tensorboard --logdir {here / 'runs'}" in output
    assert f"TRACKIO_DIR={folder / 'trackio'} uv run trackio show" in output
    # of the logs that the run was started with
    output = succeeded(run(here, "--run", "logged", "--resume", "--steps", "14"))
    assert "Trained 14 steps" in output
    assert "uv run trackio show" in output
    assert [step for step, _ in of_tensorboard(folder, "loss")] == list(range(1, 15))
    for name in ("loss", "validation_loss", "learning_rate"):
        assert of_tensorboard(folder, name) == of_metrics(folder, name)
    assert list((folder / "trackio").glob("*.db"))
    again = succeeded(run(here, "--run", "logged", *data, "--overwrite"))
    assert "tensorboard" not in again
    assert not (folder / "tensorboard").exists()


def tokens_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["tokens"]) for line in lines]


def test_of_several_processes_one_logs(here):
    folder = here / "runs" / "ranks"
    data = ["--data", str(here / "text.txt"), *SMALL, "--log", "tensorboard"]
    output = succeeded(run(here, "--run", "ranks", *data, ranks=TORCHRUN))
    assert output.count("Trained 12 steps") == 1
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert of_tensorboard(folder, "loss") == of_metrics(folder, "loss")


def test_what_is_not_installed_or_unknown_is_one_line_and_leaves_nothing(here, tmp_path):
    # a package of this name that is not there: the tests' environment has the real one
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'trackio' else find(name, *rest)\n"
    )
    data = ["--run", "missing", "--data", str(here / "text.txt"), *SMALL]
    process = run(here, *data, "--log", "trackio", environment={"PYTHONPATH": str(tmp_path)})
    assert process.returncode == 1
    assert "install llm[trackio]" in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    assert not (here / "runs" / "missing").exists()
    process = run(here, *data, "--log", "wandb")
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "'tensorboard', 'trackio'" in process.stderr
