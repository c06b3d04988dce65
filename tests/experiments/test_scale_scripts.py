"""Text to shards, shards to a model, several processes: the scripts as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "experiments" / "llm_only" / "train_gpt_bpe.py"
PREPARE = ROOT / "experiments" / "llm_only" / "prepare_data.py"
pytestmark = pytest.mark.slow

SMALL = [
    *("--embed-dim", "16", "--num-heads", "2", "--num-layers", "1", "--dropout", "0"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--max-new-tokens", "8"),
    *("--device", "cpu", "--steps", "30", "--save-every", "10", "--validate-every", "10"),
]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]
# the scripts' runs go where CHECKPOINTS says
HERE = """
import runpy, sys
from pathlib import Path
from experiments.shared import configs
configs.CHECKPOINTS = Path(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a corpus, and a script that runs scripts with their runs in it."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "here.py").write_text(HERE)
    (folder / "corpus").mkdir()
    for number in range(40):
        text = "".join(f"Text {number}, line {i}: the cat. Кошка {i}.\n" for i in range(20))
        (folder / "corpus" / f"{number}.txt").write_text(text, "utf-8")
    return folder


def run(here, script, *arguments, ranks=()):
    command = [*ranks, str(here / "here.py"), str(here / "runs"), str(script), *arguments]
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )


def succeeded(process):
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout


def test_text_becomes_shards_and_shards_a_model(here):
    data = ["--data", str(here / "corpus")]
    succeeded(run(here, TRAIN, "--run", "small", *data, "--vocab-size", "300", *SMALL))
    shards = here / "shards"
    prepare = ["--tokenizer", str(here / "runs" / "small" / "final"), "--out", str(shards)]
    prepare += ["--validation-fraction", "0.2", "--num-workers", "2"]
    output = succeeded(run(here, PREPARE, *data, *prepare))
    assert "documents" in output
    again = succeeded(run(here, PREPARE, *data, *prepare))
    assert again == output
    train = ["--shards", str(shards), "--document-mask", *SMALL]
    output = succeeded(run(here, TRAIN, "--run", "shards", *train))
    assert "On the validation shards: " in output
    output = succeeded(run(here, TRAIN, "--run", "shards", "--resume", "--steps", "35"))
    assert "Trained 35 steps" in output
    # a damaged shard is named
    path = next((shards / "train").glob("*.bin"))
    path.write_bytes(path.read_bytes()[:-2])
    process = run(here, TRAIN, "--run", "hurt", *train)
    assert process.returncode == 1
    assert path.name in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does_and_one_of_them_speaks(here, parallel):
    data = ["--data", str(here / "corpus"), "--vocab-size", "300", "--parallel", parallel]
    names = f"one-{parallel}", f"two-{parallel}"
    both = run(here, TRAIN, "--run", names[1], *data, *SMALL, ranks=TORCHRUN)
    output = succeeded(both)
    assert output.count("2 processes") == 1
    assert output.count("saved checkpoint") == 3
    assert output.count("Trained 30 steps") == 1
    succeeded(run(here, TRAIN, "--run", names[0], *data, *SMALL, "--accumulation-steps", "2"))
    runs = [here / "runs" / name for name in names]
    one, two = (load_file(folder / "final" / "model.safetensors") for folder in runs)
    for name, weight in one.items():
        other = two[name]
        if name.endswith("c_attn.bias"):
            # softmax does not see a bias of the keys: its gradient is rounding alone
            weight, other = (torch.cat([*each.chunk(3)[::2]]) for each in (weight, other))
        assert (weight - other).abs().max() <= 1e-6 * weight.abs().max(), name
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        for folder in runs
    ]
    for left, right in zip(*lines, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() & {"loss", "validation_loss", "grad_norm", "tokens"}:
            assert left[name] == pytest.approx(right[name], rel=1e-6)


def processes_of(word):
    """The processes that have a word in their arguments, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        rank = [each[5:] for each in environment if each.startswith(b"RANK=")]
        if rank and word.encode() in arguments:
            found[int(rank[0])] = int(folder.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.exhaustive), "fsdp"])
def test_a_run_goes_on_to_the_same_bits_when_one_of_its_processes_is_killed(here, parallel):
    data = ["--data", str(here / "corpus"), "--vocab-size", "300", *SMALL]
    data += ["--steps", "300", "--save-every", "50", "--dropout", "0.1", "--validate-every", "0"]
    data += ["--parallel", parallel]
    names = f"quiet-{parallel}", f"struck-{parallel}"
    run_folders = [here / "runs" / name for name in names]
    succeeded(run(here, TRAIN, "--run", names[0], *data, ranks=TORCHRUN))
    command = [*TORCHRUN[:-1], "--max-restarts", "2", "--", str(here / "here.py")]
    process = subprocess.Popen(
        [sys.executable, *command, str(here / "runs"), str(TRAIN), "--run", names[1], *data],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # without it the started processes wait for each other forever
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )
    try:
        for _ in range(3000):
            if (run_folders[1] / "step-000100").exists():
                break
            time.sleep(0.02)
        os.kill(processes_of(names[1])[1], signal.SIGKILL)
        assert process.wait(timeout=200) == 0
    finally:
        process.kill()
    described = json.loads((run_folders[1] / "run.json").read_text("utf-8"))
    assert len(described["resumed"]) == 1
    quiet, struck = (
        (folder / "final" / "model.safetensors").read_bytes() for folder in run_folders
    )
    assert quiet == struck
