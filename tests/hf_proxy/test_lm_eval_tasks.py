"""Tasks scored by `llm.evaluation`, and the same files by the real lm-eval."""

import json
import math
import random

import pytest

from hf_proxy import HFAdapter, HFTokenizerAdapter, hf_text_model
from llm.evaluation import (
    ClozeScore,
    log_likelihoods,
    read_task,
    score_choices,
    score_cloze,
    text_model,
)
from llm.tokenizers import BPETokenizer

TEXTS = [
    "The cat sat on the mat, and the dog lay by the door.",
    "Кошка сидела на коврике, а собака лежала у двери.",
    "A small model learns a small book by heart.",
    "Маленькая модель учит маленькую книгу наизусть.",
]
CONTEXT = 40  # as tests/hf_proxy/conftest.py has it
QUESTIONS = [
    ("The cat sat on the", ["mat", "door", "book by heart"]),
    ("The dog lay by the ", ["mat", "door"]),
    ("Кошка сидела на", ["коврике", "mat", "маленькую книгу наизусть"]),
    ("Маленькая модель учит\n", ["книгу", "собака у двери", "😀", "the"]),
    ("", ["Кошка", "The small model"]),
    (" ".join(TEXTS), ["The cat", "Кошка"]),
    ("A small", ["model learns", "d", "дверь", "heart"]),
    ("собака", ["лежала", "сидела", "cat"]),
]
CLOZES = [
    *((context, choices[-1]) for context, choices in QUESTIONS),
    ("Съешь же ещё этих мягких французских", "булок"),
]


@pytest.fixture(scope="module")
def bpe():
    tokenizer = BPETokenizer()
    special = ["<pad>", "<bos>", "<eos>"]
    tokenizer.train(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    return tokenizer


@pytest.fixture(scope="module")
def llm(make_model, bpe):
    return make_model(
        "gpt2",
        vocab_size=len(bpe),
        bos_token_id=bpe.eos_token_id,
        eos_token_id=bpe.eos_token_id,
        pad_token_id=bpe.pad_token_id,
    )


@pytest.fixture(scope="module", params=["live", pytest.param("saved", marks=pytest.mark.slow)])
def harness(llm, bpe, tmp_path_factory, request):
    """lm-eval's model, told what a text of ours begins after."""
    from lm_eval.models.huggingface import HFLM

    adapter, tokenizer = HFAdapter.from_llm_model(llm), HFTokenizerAdapter(bpe)
    options = {"batch_size": 3, "prefix_token_id": bpe.eos_token_id, "device": "cpu"}
    if request.param == "live":
        return HFLM(adapter, tokenizer=tokenizer, **options)
    folder = tmp_path_factory.mktemp("saved")
    adapter.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return HFLM(str(folder), **options)


@pytest.fixture
def evaluate(harness, tmp_path):
    """lm-eval's results and samples of a JSONL file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    def evaluate(path, **task):
        files = {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "cache")}
        task = {
            "task": "ours",
            "dataset_path": "json",
            "dataset_kwargs": files,
            "test_split": "test",
            "doc_to_text": "{{context}}",
            **task,
        }
        # JSON is YAML
        (tmp_path / "ours.yaml").write_text(json.dumps(task))
        found = lm_eval.simple_evaluate(
            harness,
            tasks=["ours"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            bootstrap_iters=2,
        )
        samples = sorted(found["samples"]["ours"], key=lambda sample: sample["doc_id"])
        values = [tuple(result) for sample in samples for result in sample["filtered_resps"]]
        return found["results"]["ours"], values

    return evaluate


def write(path, examples):
    lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def agree(found, values):
    """Each log-likelihood, and whether it is greedy."""
    assert len(found) == len(values)
    assert [each.value for each in found] == pytest.approx([v for v, _ in values], abs=1e-4)
    assert [each.is_greedy for each in found] == [is_greedy for _, is_greedy in values]


def test_multiple_choice_is_as_lm_eval_has_it(llm, bpe, evaluate, tmp_path):
    examples = [
        # right by one measure and wrong by another, among so many
        {"context": context, "choices": choices, "answer": (7 * number) % len(choices)}
        for number, (context, choices) in enumerate(QUESTIONS)
    ]
    path = write(tmp_path / "choices.jsonl", examples)
    metrics = ["acc", "acc_norm", "acc_bytes"]
    expected, values = evaluate(
        path,
        output_type="multiple_choice",
        doc_to_choice="{{choices}}",
        doc_to_target="{{answer}}",
        metric_list=[{"metric": metric} for metric in metrics],
    )
    model, task = text_model(llm, bpe), read_task(path)
    pairs = [(each.context, f" {choice}") for each in task for choice in each.choices]
    assert len(bpe.encode(QUESTIONS[5][0])) > CONTEXT  # so that one is cut
    agree(log_likelihoods(model, pairs, show_progress=False), values)
    found = score_choices(model, task, show_progress=False)
    assert found.num_examples == len(QUESTIONS)
    assert {0, 1}.isdisjoint({found.acc, found.acc_norm, found.acc_bytes})
    assert found.acc != found.acc_norm
    for metric in metrics:
        assert getattr(found, metric) == pytest.approx(expected[f"{metric},none"], rel=1e-12)
        stderr = expected[f"{metric}_stderr,none"]
        assert getattr(found, f"{metric}_stderr") == pytest.approx(stderr, rel=1e-12)


def test_cloze_is_as_lm_eval_has_it(llm, bpe, evaluate, tmp_path):
    examples = [{"context": context, "answer": answer} for context, answer in CLOZES]
    model = text_model(llm, bpe)
    # and some that the model is right about, of all the words that are one token
    words = [text for text in (bpe.decode([token]) for token in range(len(bpe))) if text[:1] == " "]
    tried = [(text[:end], word) for text in TEXTS for end in range(1, 12) for word in words]
    greedy = [each.is_greedy for each in log_likelihoods(model, tried, show_progress=False)]
    examples += [
        {"context": context, "answer": word[1:]}
        for (context, word), is_greedy in zip(tried, greedy, strict=True)
        if is_greedy and word != " "
    ]
    assert len(examples) > len(CLOZES) + 1
    path = write(tmp_path / "cloze.jsonl", examples)
    expected, values = evaluate(
        path,
        output_type="loglikelihood",
        # as its LAMBADA has it: here lm-eval puts no delimiter of its own
        doc_to_target="{{' ' + answer}}",
        metric_list=[{"metric": "acc"}, {"metric": "perplexity"}],
    )
    task = read_task(path)
    pairs = [(each.context, f" {each.answer}") for each in task]
    agree(log_likelihoods(model, pairs, show_progress=False), values)
    found = score_cloze(model, task, show_progress=False)
    assert found.acc > 0
    assert found.acc == pytest.approx(expected["acc,none"], rel=1e-12)
    assert found.acc_stderr == pytest.approx(expected["acc_stderr,none"], rel=1e-12)
    assert found.perplexity == pytest.approx(expected["perplexity,none"], rel=1e-4)


def test_the_standard_error_of_perplexity_is_lm_evals_bootstrap(monkeypatch):
    from lm_eval.api.metrics import bootstrap_stderr, mean_stderr, perplexity

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    draw = random.Random(0)
    values = [draw.gauss(-3, 0.8) for _ in range(500)]
    stderr = mean_stderr(values)
    score = ClozeScore(
        num_examples=500, acc=0, acc_stderr=0, loss=-sum(values) / 500, loss_stderr=stderr
    )
    assert score.perplexity == pytest.approx(perplexity(values))
    expected = bootstrap_stderr(perplexity, values, iters=1000)
    # of 1000 draws, a standard deviation has an error of 1 / √2000, 2%
    assert score.perplexity_stderr == pytest.approx(expected, rel=0.07)


def test_a_model_of_transformers_scores_the_same(llm, bpe):
    ours = text_model(llm, bpe)
    theirs = hf_text_model(HFAdapter.from_llm_model(llm), HFTokenizerAdapter(bpe))
    pairs = [(context, f" {answer}") for context, answer in CLOZES]
    values = log_likelihoods(ours, pairs, show_progress=False)
    agree(log_likelihoods(theirs, pairs, show_progress=False), values)
    assert len({round(value, 3) for value, _ in values}) == len(pairs)
    assert all(math.isfinite(value) for value, _ in values)
