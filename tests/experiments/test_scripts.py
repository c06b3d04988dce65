"""The scripts, run as a user runs them."""

import json
import re
import shutil
import subprocess
import sys
import uuid

import pytest

from tests.script_processes import failed, run, succeeded

pytestmark = pytest.mark.slow

TRAIN = "experiments/llm_only/train_gpt_bpe.py"
GENERATE = "experiments/llm_only/generate_gpt_bpe.py"
EVALUATE = "experiments/llm_only/evaluate.py"
SMALL = [
    *("--vocab-size", "300", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"),
    *("--max-position-embeddings", "32", "--batch-size", "2"),
    *("--max-new-tokens", "8", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    english = "".join(f"Line {i}: the cat sat on mat {i}.\n" for i in range(120))
    russian = "".join(f"Строка {i}: кошка сидела на окне {i}.\r\n" for i in range(120))
    (folder / "english.txt").write_text(english, "utf-8")
    (folder / "русский.txt").write_text(russian, "utf-8", newline="")
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The checkpoints folder and the output of a small run on both languages."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    process = run(
        TRAIN,
        *("--run", "first", "--data", str(corpus), "--prompt", "The cat", "Кошка"),
        *("--steps", "6", "--save-every", "3", "--validate-every", "3", "--sample-every", "3"),
        *SMALL,
        checkpoints=checkpoints,
    )
    return checkpoints, process


def test_training_says_what_it_does_and_leaves_a_run(trained):
    checkpoints, process = trained
    output = succeeded(process)
    for promise in (
        "parameters",
        "step 0 writes:",
        "step 6 writes:",
        "| Кошка",
        "unigram model",
        "bits/byte",
        "saved checkpoint",
        "step 3: validation loss",
        "Try next:",
        "generate_gpt_bpe.py",
    ):
        assert promise in output, promise
    assert "6/6" in process.stderr  # the progress bar
    run_folder = checkpoints / "first"
    assert {path.name for path in run_folder.iterdir()} == {
        *("run.json", "run.lock", "metrics.jsonl", "loss.png", "final"),
        *("step-000003", "step-000006"),
    }
    assert (run_folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((run_folder / "run.json").read_text("utf-8"))
    assert described["training"]["steps"] == 6
    assert len(described["data"]["train_sha256"]) == 64


def test_the_printed_losses_are_those_of_the_saved_model(trained, corpus):
    """Bits per byte and both losses, worked out again from the files alone."""
    import math

    import torch

    from experiments.shared.data import read_documents, split_documents
    from llm.models import load_pretrained
    from llm.tokenizers import BPETokenizer

    checkpoints, process = trained
    rows = {
        name: [float(value) for value in re.search(rf"{name} +(.*)", process.stdout)[1].split()]
        for name in ("this model", "unigram model")
    }
    folder = checkpoints / "first" / "final"
    model, tokenizer = load_pretrained(folder), BPETokenizer.load(folder)
    train, validation = split_documents(
        read_documents([str(corpus)]), validation_fraction=0.1, by="auto", seed=0
    )

    def joined(texts):
        ids = []
        for text in texts:
            ids += ([tokenizer.eos_token_id] if ids else []) + tokenizer.encode(text)
        return ids

    ids, train_ids = joined(validation), joined(train)
    nats = 0.0
    for start in range(0, len(ids) - 1, 31):
        block = torch.tensor([ids[start : start + 32]])
        with torch.no_grad():
            log_probabilities = model(block).log_softmax(-1)
        nats -= log_probabilities[0, :-1].gather(1, block[0, 1:, None]).sum().item()
    counts = [1] * len(tokenizer)
    for token in train_ids[1:]:
        counts[token] += 1
    unigram = -sum(math.log(counts[token] / sum(counts)) for token in ids[1:])
    size = sum(len(text.encode()) for text in validation) - len(tokenizer.decode_bytes(ids[:1]))
    for name, total in (("this model", nats), ("unigram model", unigram)):
        per_token = total / (len(ids) - 1)
        expected = [per_token, math.exp(per_token), total / math.log(2) / size]
        assert rows[name] == pytest.approx(expected, rel=2e-3, abs=6e-4), name


def test_a_stranger_opens_the_final_model_with_stock_transformers(trained):
    checkpoints, _ = trained
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
assert "llm" not in sys.modules
ids = tokenizer("Кошка сидела", return_tensors="pt")["input_ids"]
print(ids[0].tolist())
print(model(ids).logits[0, -1, :5].tolist())
"""
    import torch

    from llm.models import load_pretrained
    from llm.tokenizers import BPETokenizer

    folder = checkpoints / "first" / "final"
    output = succeeded(
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, encoding="utf-8"
        )
    )
    ids, logits = map(json.loads, output.splitlines()[-2:])
    assert ids == BPETokenizer.load(folder).encode("Кошка сидела")
    ours = load_pretrained(folder)(torch.tensor([ids]))[0, -1, :5]
    torch.testing.assert_close(torch.tensor(logits), ours, rtol=0, atol=1e-5)


def test_the_same_command_trains_the_same_weights(trained, corpus):
    checkpoints, _ = trained
    arguments = ["--data", str(corpus), "--steps", "2", "--save-every", "0", *SMALL]
    # two interpreters, which order sets differently
    for name, real in {"one": True, "two": False}.items():
        succeeded(run(TRAIN, "--run", name, *arguments, checkpoints=checkpoints, real=real))
    one, two = (checkpoints / name / "final" / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("model", ["gpt", "gpt2"])
def test_either_model_trains_from_the_built_in_text(tmp_path, model):
    output = succeeded(run(TRAIN, "--model", model, "--steps", "1", *SMALL, checkpoints=tmp_path))
    assert "Python language reference" in output
    (run_folder,) = tmp_path.iterdir()
    assert run_folder.name.startswith(f"{model}-")


def test_generating_takes_the_newest_run_and_continues_the_prompt(trained):
    checkpoints, _ = trained
    process = run(GENERATE, "--prompt", "The cat", "Кошка", checkpoints=checkpoints)
    output = succeeded(process)
    assert output.startswith("The cat")
    assert "\nКошка" in output
    newest = max(checkpoints.glob("*/run.json"), key=lambda file: file.stat().st_mtime).parent
    assert f"{newest.name}/final" in process.stderr


def test_generating_is_reproducible_by_seed(trained):
    checkpoints, _ = trained

    def text(seed):
        return succeeded(run(GENERATE, "--run", "first", "--seed", seed, checkpoints=checkpoints))

    assert text("1") == text("1") != text("2")


def test_a_run_is_evaluated_in_figures_and_a_report(trained, tmp_path):
    checkpoints, _ = trained
    arguments = ["--run", "first", "--out", str(tmp_path), "--max-new-tokens", "4"]
    output = succeeded(run(EVALUATE, *arguments, checkpoints=checkpoints, real=True))
    assert "bits/byte" in output
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "report.html"}


def test_comparing_shows_every_strategy(trained):
    checkpoints, _ = trained
    output = succeeded(
        run(
            GENERATE,
            "--run",
            "first",
            "--compare",
            "--max-new-tokens",
            "4",
            checkpoints=checkpoints,
        )
    )
    assert output.count("--- ") == 7
    assert output.count("A function is") == 7


def test_interactive_mode_answers_each_line_until_an_empty_one(trained):
    checkpoints, _ = trained
    process = run(
        GENERATE,
        *("--run", "first", "--interactive", "--max-new-tokens", "3"),
        input="Кошка\nThe dog\n\nnever",
        checkpoints=checkpoints,
    )
    output = succeeded(process)
    assert output.startswith("Кошка")
    assert "\nThe dog" in output
    assert "never" not in output


def test_generating_from_an_unfinished_run_takes_its_newest_checkpoint(trained, tmp_path):
    checkpoints, _ = trained
    source = checkpoints / "first"
    (tmp_path / "cut").mkdir()
    for name in ("run.json", "step-000003", "step-000006"):
        (tmp_path / "cut" / name).symlink_to(source / name)
    process = run(GENERATE, "--max-new-tokens", "2", checkpoints=tmp_path)
    succeeded(process)
    assert "step-000006" in process.stderr


def test_the_newest_run_with_a_model_is_taken(trained, tmp_path):
    checkpoints, _ = trained
    (tmp_path / "old").symlink_to(checkpoints / "first")
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "run.json").write_text("{}")
    process = run(GENERATE, "--max-new-tokens", "2", checkpoints=tmp_path)
    succeeded(process)
    assert "old/final" in process.stderr


def test_a_console_that_cannot_show_a_character_does_not_stop_the_work(trained):
    checkpoints, _ = trained
    process = run(
        GENERATE,
        *("--run", "first", "--prompt", "Кот"),
        checkpoints=checkpoints,
        encoding="ascii",
        real=True,
    )
    assert succeeded(process).startswith("???")


def test_a_run_without_a_model_says_how_to_get_one(tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "run.json").write_text("{}")
    failed(
        run(GENERATE, checkpoints=tmp_path, real=True), r"young holds no model.*train_gpt_bpe\.py"
    )


def test_a_damaged_model_is_one_line(trained, tmp_path):
    checkpoints, _ = trained
    folder = tmp_path / "hurt" / "final"
    folder.mkdir(parents=True)
    for path in (checkpoints / "first" / "final").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    failed(run(GENERATE, "--run", "hurt", checkpoints=tmp_path), r"model\.safetensors")


def test_a_tokenizer_of_another_model_and_numbers_gone_wrong_are_one_line(trained, tmp_path):
    import safetensors.torch

    checkpoints, _ = trained
    final = shutil.copytree(checkpoints / "first" / "final", tmp_path / "mixed" / "final")
    weights = safetensors.torch.load_file(final / "model.safetensors")
    hurt = {**weights, "transformer.h.0.ln_1.weight": weights["transformer.h.0.ln_1.weight"] / 0}
    safetensors.torch.save_file(hurt, final / "model.safetensors")
    failed(
        run(GENERATE, "--run", "mixed", checkpoints=tmp_path), "damaged: decoder.blocks.0.attention"
    )
    config = json.loads((final / "config.json").read_text())
    smaller = {**config, "vocab_size": 200, "eos_token_id": 3, "bos_token_id": 3}
    (final / "config.json").write_text(json.dumps(smaller))
    small = weights["transformer.tokens_embed.weight"][:200].clone()
    safetensors.torch.save_file(
        {**weights, "transformer.tokens_embed.weight": small}, final / "model.safetensors"
    )
    process = run(GENERATE, "--run", "mixed", checkpoints=tmp_path)
    assert process.returncode == 1
    assert "the tokenizer is another model's" in process.stderr.splitlines()[-1]


def test_debug_shows_the_traceback(tmp_path):
    process = run(GENERATE, "--debug", checkpoints=tmp_path, real=True)
    assert "Traceback" in process.stderr
    assert process.returncode == 1


def test_a_run_that_diverges_stops_with_one_line_and_keeps_its_checkpoint(corpus, tmp_path):
    name = f"hot-{uuid.uuid4().hex[:6]}"
    process = run(
        TRAIN,
        *("--run", name, "--data", str(corpus), "--steps", "40", "--save-every", "1"),
        *("--optimizer", "sgd", "--learning-rate", "1e9", "--max-grad-norm", "0"),
        *SMALL,
        checkpoints=tmp_path,
    )
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert re.search(r"step \d+: loss .* the last good checkpoint is .*step-0000", last), last
    assert "Traceback" not in process.stderr


HF_SIMPLE = "experiments/hf_integration/simple_hf_training.py"
HF_TRAINER = "experiments/hf_integration/train_with_hf_trainer.py"
HF_GENERATE = "experiments/hf_integration/generate_with_hf_tools.py"
HF_TOUR = "experiments/hf_integration/test_hf_proxy.py"
HF_SMALL = [*SMALL, "--vocab-size", "400", "--learning-rate", "1e-2"]


@pytest.fixture(scope="module")
def hf_run(tmp_path_factory):
    """A run of the plain loop on the built-in sentences, and what it printed."""
    checkpoints = tmp_path_factory.mktemp("hf-checkpoints")
    options = ["--run", "simple", "--steps", "80", "--embed-dim", "48", "--batch-size", "16"]
    return checkpoints, succeeded(run(HF_SIMPLE, *HF_SMALL, *options, checkpoints=checkpoints))


def losses(output):
    return [float(loss) for loss in re.findall(r"step +\d+ +loss (\d+\.\d+)", output)]


def test_the_plain_loop_trains_and_leaves_what_a_stranger_opens(hf_run):
    checkpoints, output = hf_run
    first, *_, last = losses(output)
    assert last < first / 2
    assert re.search(r"greedy tokens equal +(\d+) of \1\b", output)
    assert re.search(r"texts encoded alike +4 of 4", output)
    assert output.count("\n  The cat") == output.count("\n  Кошка") == 1
    assert "generate_with_hf_tools.py --run simple" in output
    code = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('Кошка', return_tensors='pt')\n"
        "ids = model.generate(**ids, max_new_tokens=8, do_sample=False)[0]\n"
        "print(tokenizer.decode(ids, skip_special_tokens=True))\n"
    )
    stranger = subprocess.run(
        [sys.executable, "-c", code, str(checkpoints / "simple" / "final")],
        capture_output=True,
        encoding="utf-8",
    )
    assert f"\n  {stranger.stdout.strip()}\n" in output


def test_the_run_is_continued_by_huggingfaces_tools(hf_run):
    checkpoints, _ = hf_run
    options = ["--max-new-tokens", "8", "--device", "cpu"]
    output = succeeded(run(HF_GENERATE, "--compare", *options, checkpoints=checkpoints))
    sections = dict(re.findall(r"--- (.*)\n(The cat.*)\n", output))
    assert len(sections) == 8
    assert sections["greedy"] == sections["prompt lookup, as greedy"]
    assert output.count("--- greedy\n") == 2
    asked = succeeded(
        run(HF_GENERATE, "--interactive", *options, input="Собака\n\n", checkpoints=checkpoints)
    )
    assert asked.startswith("Собака")


def test_huggingfaces_trainer_trains_and_its_checkpoints_load(corpus, tmp_path):
    options = ["--steps", "12", "--log-every", "4", "--save-every", "6", "--validate-every", "6"]
    process = run(
        HF_TRAINER,
        *("--run", "trainer", "--model", "gpt", "--data", str(corpus), *HF_SMALL, *options),
        checkpoints=tmp_path,
        real=True,
    )
    output = succeeded(process)
    first, last = re.search(r"Training loss (\S+) at first, (\S+) at last", output).groups()
    assert float(last) < float(first)
    assert "Validation loss" in output
    assert "OpenAIGPTLMHeadModel" in output
    assert (tmp_path / "trainer" / "checkpoint-12" / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "trainer" / "final")
    generated = run(HF_GENERATE, "--prompt", "Line", "--max-new-tokens", "4", checkpoints=tmp_path)
    assert succeeded(generated).startswith("Line")
    assert "checkpoint-12" in generated.stderr


def test_huggingfaces_tools_take_a_run_of_the_llm_scripts(trained):
    checkpoints, _ = trained
    options = ["--run", "first", "--prompt", "The cat", "--no-do-sample", "--max-new-tokens", "6"]
    theirs = succeeded(run(HF_GENERATE, *options, checkpoints=checkpoints, real=True))
    ours = succeeded(run(GENERATE, *options, checkpoints=checkpoints))
    assert theirs == ours


def test_a_run_of_the_llm_scripts_goes_all_the_way_to_a_stranger(trained, corpus, tmp_path):
    """Wrap, train further with HuggingFace's Trainer, a pipeline, an export, a stranger."""
    import datasets
    import transformers

    from hf_proxy import (
        HFAdapter,
        HFTokenizerAdapter,
        create_hf_pipeline,
        export_native,
        load_llm_model,
    )

    model, tokenizer = load_llm_model(trained[0] / "first" / "final")
    hf_model, hf_tokenizer = HFAdapter.from_llm_model(model), HFTokenizerAdapter(tokenizer)
    lines = (corpus / "русский.txt").read_text("utf-8").splitlines()
    before = model.lm_head.weight.detach().clone()
    transformers.Trainer(
        model=hf_model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "trainer"), max_steps=3, report_to="none", use_cpu=True
        ),
        train_dataset=datasets.Dataset.from_list([dict(hf_tokenizer(line)) for line in lines]),
        data_collator=transformers.DataCollatorForLanguageModeling(hf_tokenizer, mlm=False),
        processing_class=hf_tokenizer,
    ).train()
    assert not (model.lm_head.weight == before).all()
    options = {"max_new_tokens": 8, "do_sample": False}
    (result,) = create_hf_pipeline(hf_model, hf_tokenizer)("Строка", **options)
    certificate = export_native(hf_model, tmp_path / "native", hf_tokenizer)
    assert certificate.greedy_tokens_equal == certificate.greedy_tokens > 0
    code = (
        "import sys\nfrom transformers import pipeline\n"
        "pipe = pipeline('text-generation', sys.argv[1])\n"
        "result = pipe('Строка', max_new_tokens=8, do_sample=False)[0]['generated_text']\n"
        "assert not {'llm', 'hf_proxy'} & set(sys.modules)\n"
        "sys.stdout.buffer.write(result.encode('utf-8'))\n"
    )
    stranger = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "native")], capture_output=True, cwd=tmp_path
    )
    assert stranger.returncode == 0, stranger.stderr
    assert stranger.stdout.decode("utf-8") == result["generated_text"]


def test_the_tour_holds():
    output = succeeded(run(HF_TOUR, real=True))
    assert output.endswith("All of it holds.\n")
    assert "GPT2LMHeadModel" in output


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (HF_GENERATE, ["--run", "none"], "no run 'none'"),
        (HF_TRAINER, ["--steps", "many"], "many"),
        (HF_TOUR, ["--fast"], "takes no arguments"),
    ],
)
def test_a_mistake_in_a_huggingface_script_is_one_line(script, arguments, message, tmp_path):
    failed(run(script, *arguments, checkpoints=tmp_path, real=True), message)


def test_a_prompt_that_cannot_be_continued_is_refused_before_the_training(tmp_path):
    for prompt, message in {"": "has 0 tokens", "cat " * 200: "tokens: 1 to 34 fit"}.items():
        process = run(HF_SIMPLE, "--prompt", prompt, checkpoints=tmp_path)
        assert process.returncode == 1
        assert "step" not in process.stdout
        assert re.search(rf"error: the prompt .*{message}", process.stderr)


def test_a_dataset_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    failed(run(HF_SIMPLE, "--dataset", "no/such", checkpoints=tmp_path), "--dataset no/such cannot")


def test_a_dataset_on_disk_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"body": f"Строка {i}: кошка."} for i in range(50)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    options = ["--dataset", str(folder), "--steps", "2", "--prompt", "Строка", "--max-new-tokens"]
    process = run(
        HF_SIMPLE,
        *(*HF_SMALL, *options, "4", "--text-field", "body"),
        checkpoints=tmp_path,
        real=True,
    )
    assert "45 texts to train on, 5 not" in succeeded(process)
    process = run(HF_SIMPLE, *options, "4", checkpoints=tmp_path)
    failed(process, "no column 'text'; it has body")
