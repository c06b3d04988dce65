"""prepare_data.py: text in, shards out, mistakes in one line."""

import json

import pytest

from llm.data import TokenShards
from llm.tokenizers import BPETokenizer
from tests.script_processes import run, succeeded

SCRIPT = "experiments/llm_only/prepare_data.py"


@pytest.mark.slow
def test_text_becomes_shards_and_mistakes_one_line(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(20):
        (texts / f"{i}.txt").write_text(f"the cat number {i} sat on the mat")
    tokenizer = BPETokenizer()
    tokenizer.train(["the cat sat on the mat"], 265, ["<eos>"], show_progress=False)
    tokenizer.save(tmp_path / "tokenizer")
    options = ["--data", texts, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "out"]
    split = ["--validation-fraction", "0.3", "--num-workers", "2"]
    succeeded(run(SCRIPT, *options, *split, real=True))
    sides = [TokenShards(tmp_path / "out" / side) for side in ("train", "validation")]
    assert sum(side.num_documents for side in sides) == 20
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": f"the cat {i}"}) + "\n" for i in range(7)))
    from_rows = ["--dataset", rows, *options[2:5], tmp_path / "rows"]
    succeeded(run(SCRIPT, *from_rows, "--text-field", "body"))
    assert TokenShards(tmp_path / "rows" / "train").num_documents == 7
    for wrong in (
        from_rows,
        [*from_rows, "--data", texts],
        options[:4],
        [*options, "--num-workers", "0"],
        ["--data", "none", *options[2:]],
    ):
        process = run(SCRIPT, *wrong)
        assert process.returncode != 0
        assert "Traceback" not in process.stderr
        # a row is read when the work has begun, and the progress bar is there
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        assert all(line.startswith("tokenizing: 0") for line in lines[:-1]), process.stderr
        assert lines[-1].startswith("error: ")
