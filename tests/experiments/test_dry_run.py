"""`train_gpt_bpe.py --dry-run`: what a run needs, on one screen, and nothing written."""

import re

import pytest

from llm.models.gpt import GPT2Config, GPTConfig

# the first step of a process loads PyTorch's compiler
SECONDS = 120
TRAIN = "llm_only.train_gpt_bpe"
SIZES = {"embed_dim": 16, "num_heads": 2, "num_layers": 1, "max_position_embeddings": 32}
SMALL = [
    *(part for name, size in SIZES.items() for part in (f"--{name.replace('_', '-')}", str(size))),
    *("--vocab-size", "300", "--batch-size", "2", "--device", "cpu", "--steps", "20"),
    *("--data", "good.txt"),
]


def paths(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def dry_run(call, workspace):
    """Its output; a folder more than before would fail the test."""

    def dry_run(*arguments):
        before = paths(workspace)
        answer = call(TRAIN, "--dry-run", *SMALL, *map(str, arguments), seconds=SECONDS)
        assert paths(workspace) == before
        return answer

    return dry_run


def value(output, name):
    """The last column of a row of the table."""
    return re.search(rf"^ *{re.escape(name)}.*?  +(\S.*)$", output, re.MULTILINE)[1]


@pytest.mark.parametrize(("model_type", "config"), [("gpt", GPTConfig), ("gpt2", GPT2Config)])
def test_it_says_what_the_run_needs(dry_run, model_type, config):
    answer = dry_run("--model", model_type)
    assert (answer.code, answer.errors) == (0, "")
    counts = config(vocab_size=300, **SIZES).parameters
    assert value(answer.output, "Parameters") == f"{counts.total:,}"
    assert value(answer.output, "attention") == f"{counts.attention:,}"
    assert value(answer.output, "norms") == f"{counts.norms:,}"
    # 20 steps of 2 examples, whose first tokens are not predicted
    assert "the run, 1,240 tokens" in answer.output
    assert value(answer.output, "a token, forward and backward").endswith("kFLOP")
    assert value(answer.output, "weights") == f"{4 * counts.total / 1e6:,.1f} MB"
    assert "Time, by 5 steps on random ids" in answer.output
    assert float(value(answer.output, "tokens a second").replace(",", "")) > 0
    assert "The run fits: it needs about" in answer.output


def test_what_does_not_fit_is_said_after_the_table(dry_run):
    answer = dry_run("--batch-size", "10000000")
    assert answer.code == 1
    assert "Memory, at its peak" in answer.output
    # it was not tried
    assert "Time" not in answer.output
    assert re.fullmatch(
        r"error: the run does not fit in memory: it needs about [\d,.]+ GB .*",
        answer.errors.strip(),
    )


def test_a_step_of_more_examples_than_memory_holds_is_not_tried(dry_run):
    answer = dry_run("--accumulation-steps", "1000000000")
    assert answer.code == 1
    assert re.search(r"accumulation_steps=1000000000.* a step needs at least", answer.errors)


def test_shards_give_their_vocabulary_and_their_text(trained, call, workspace):
    before = paths(workspace)
    arguments = [*SMALL[:-2], "--shards", str(workspace / "shards")]
    answer = call(TRAIN, "--dry-run", *arguments, "--vocab-size", "9999", seconds=SECONDS)
    assert answer.code == 0, answer
    assert paths(workspace) == before
    assert "5 steps on the shards" in answer.output
    # of the tokenizer that lies beside them
    assert value(answer.output, "token embeddings") == f"{300 * 16:,}"


def test_a_mistake_in_the_data_is_found(dry_run):
    answer = dry_run("--data", "empty.txt")
    assert answer.code == 1
    assert "empty.txt" in answer.errors


@pytest.mark.parametrize("other", [["--resume"], ["--verify-resume"], ["--overwrite", "--run=a"]])
def test_it_goes_with_nothing_that_writes(refused, other):
    refused(TRAIN, "--dry-run", *other, message="--dry-run goes with none of")


def test_a_run_says_first_what_it_needs(call, tmp_path):
    arguments = [*SMALL, "--run", "needs", "--steps", "1"]
    answer = call(TRAIN, *arguments, checkpoints=tmp_path, seconds=SECONDS)
    assert answer.code == 0, answer
    lines = answer.output.splitlines()
    (line,) = (line for line in lines if line.startswith("Needs: "))
    assert re.fullmatch(
        r"Needs: [\d.]+ kFLOP a token, [\d.]+ MFLOP for 62 tokens; about [\d.]+ [GM]B of memory; "
        r"cpu has [\d,.]+ GB",
        line,
    )
