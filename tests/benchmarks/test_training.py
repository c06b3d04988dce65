"""The benchmark of training compares equals, and says so in its figures."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def contenders():
    spec = importlib.util.spec_from_file_location(
        "training_contenders", BENCHMARKS / "training_contenders.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run(*options):
    return subprocess.run(
        [sys.executable, BENCHMARKS / "training.py", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_small_run(tmp_path):
    result = run("--only", "tiny", "--rounds", 1, "--json", tmp_path / "figures.json")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    for precision in ("fp32", "bf16"):
        for mode in ("sdpa", "eager"):
            (row,) = (
                row
                for row in figures["rows"]
                if (row["step"], row["peer"]) == (f"tiny {precision}", f"transformers {mode}")
            )
            assert row["ratio"] == row["ratios"][0] == pytest.approx(row["ours"] / row["theirs"])
    assert figures["machine"]["bf16 product, GFLOP/s"] > 0


@pytest.mark.slow
def test_the_profile_is_of_the_whole_step():
    result = run("--only", "tiny", "--precision", "fp32", "--profile")
    assert result.returncode == 0, result.stderr
    shares = [
        float(line.split("%")[0].split()[-1]) for line in result.stdout.splitlines() if "% " in line
    ]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_a_folder_without_the_peer_is_named(tmp_path):
    result = run("--nanogpt", tmp_path)
    assert result.returncode == 2
    assert f"--nanogpt {tmp_path}: there is no model.py in it" in result.stderr


def test_another_model_is_noticed(contenders):
    import torch

    shape = contenders.SHAPES["tiny"]
    ids = torch.arange(32).view(2, 16)
    contenders.check_equal([contenders.ours(shape, bf16=False)], shape, ids)
    other = contenders.ours(shape, bf16=False)
    with torch.no_grad():
        other.model.decoder.blocks[0].attention.qkv_proj.weight.mul_(1.5)
    with pytest.raises(contenders.DifferenceError, match="ours: "):
        contenders.check_equal([other], shape, ids)
