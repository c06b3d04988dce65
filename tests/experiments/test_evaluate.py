"""evaluate.py: its figures are the library's, its report one page that stands alone."""

import json
import math
import shutil
from html.parser import HTMLParser

import pytest

from llm.evaluation import perplexity
from llm.models import load_pretrained
from llm.tokenizers import BPETokenizer

EVALUATE = "llm_only.evaluate"
SHORT = ["--max-new-tokens", "8", "--device", "cpu"]
TASK = '{"context": "the cat", "choices": ["sat", "кошка"], "answer": 0}\n'


@pytest.fixture(scope="module")
def runs(trained, workspace):
    """The runs folder with a second run, of another architecture and vocabulary."""
    from experiments.llm_only import train_gpt_bpe

    sizes = ["--vocab-size", "280", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"]
    sizes += ["--max-position-embeddings", "32", "--batch-size", "2", "--max-new-tokens", "4"]
    sizes += ["--device", "cpu", "--steps", "2", "--model", "gpt2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.shared.runs.CHECKPOINTS", workspace / "runs")
        train_gpt_bpe.main(["--data", str(workspace / "good.txt"), "--run", "second", *sizes])
    yield workspace / "runs"
    shutil.rmtree(workspace / "runs" / "second")


def evaluated(call, *arguments):
    answer = call(EVALUATE, *arguments, *SHORT)
    assert answer.code == 0, answer.errors
    return answer.output


def read(folder):
    figures = json.loads((folder / "evaluation.json").read_text("utf-8"))
    return figures, (folder / "report.html").read_text("utf-8")


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs if value]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_figures_are_those_of_the_library_on_the_held_out_text(call, runs, workspace, tmp_path):
    from experiments.shared.data import read_documents, split_documents

    (workspace / "task.jsonl").write_text(TASK * 2, "utf-8")
    output = evaluated(
        *(call, "--run", "trained", "--compare", "second", "--out", str(tmp_path / "new" / "out")),
        *("--tasks", "task.jsonl", "--prompt", "<b>Кошка", "--stride", "8"),
    )
    figures, _ = read(tmp_path / "new" / "out")
    _, validation = split_documents(
        read_documents([str(workspace / "good.txt")]), validation_fraction=0.1, by="auto", seed=0
    )
    assert figures["text"]["num_bytes"] == sum(len(text.encode("utf-8")) for text in validation)
    assert [run["name"] for run in figures["runs"]] == ["trained", "second"]
    for run in figures["runs"]:
        folder = runs / run["name"] / "final"
        model, tokenizer = load_pretrained(folder), BPETokenizer.load(folder)
        expected = perplexity(model, tokenizer, validation, stride=8).to_dict()
        assert run["score"] == pytest.approx(expected, rel=1e-6)
        assert run["num_parameters"] == model.num_parameters()
        assert f"{expected['bits_per_byte']:.3f}" in output
        uniform, unigram, bigram = (
            run["baselines"][name]["loss"] for name in ("uniform", "unigram", "bigram")
        )
        assert uniform == pytest.approx(math.log(model.config.vocab_size))
        assert uniform > unigram > bigram
        assert run["tasks"]["task.jsonl"]["num_examples"] == 2
        assert run["generation"]["prompts"] == ["<b>Кошка"]
        assert len(run["generation"]["texts"][0]) == 4
    assert figures["doubts"] == []


def test_the_report_stands_alone_and_shows_text_as_text(call, runs, workspace):
    hostile = "<script>alert(1)</script> Кошка"
    evaluated(call, "--run", "trained", "--compare", "second", "--prompt", hostile)
    _, content = read(runs / "trained")
    page = Page(content)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "onload", "srcset"} & {name for name, _ in page.attributes}
    assert "url(" not in content
    assert "@import" not in content
    assert hostile in page.text
    assert page.tags.count("svg") == 3 + 2 + 2  # curves, and a layer of two heads of each
    assert "prefers-color-scheme: dark" in content
    for word in ("trained", "second", "bits per byte", "bigram", "Строка"):
        assert word in page.text
    # a run that was evaluated is still one that may be replaced
    from llm.training import check_is_run

    check_is_run(runs / "trained")
    for name in ("evaluation.json", "report.html"):
        (runs / "trained" / name).unlink()


def test_text_that_was_trained_on_is_said(call, runs, tmp_path):
    output = evaluated(
        *(call, "--run", "trained", "--data", "good.txt", "texts", "--out", str(tmp_path))
    )
    assert "Mind: trained was trained on text of" in output
    assert "good.txt" in output
    figures, page = read(tmp_path)
    assert figures["doubts"][0] in Page(page).text


def test_a_model_folder_alone_is_evaluated_on_a_text(call, runs, tmp_path, workspace):
    folder = tmp_path / "published"
    shutil.copytree(runs / "second" / "final", folder)
    evaluated(call, "--run", str(folder), "--data", "texts")
    figures, page = read(folder)
    (run,) = figures["runs"]
    assert set(run["baselines"]) == {"uniform"}
    assert run["trained_tokens"] is None
    assert "Curves" not in Page(page).text


def test_a_run_of_shards_is_evaluated_on_what_they_held_out(call, runs, trained, workspace):
    sizes = ["--embed-dim", "16", "--num-heads", "2", "--num-layers", "1", "--batch-size", "2"]
    sizes += ["--max-position-embeddings", "16", "--steps", "1", "--max-new-tokens", "4"]
    sizes += ["--save-every", "0", "--device", "cpu", "--run", "sharded"]
    answer = call("llm_only.train_gpt_bpe", "--shards", "shards", *sizes)
    assert answer.code == 0, answer.errors
    evaluated(call, "--run", "sharded")
    figures, _ = read(runs / "sharded")
    texts = [(workspace / "texts" / f"{i}.txt").read_bytes() for i in (1, 2)]
    assert figures["text"]["num_bytes"] in map(len, texts)
    assert set(figures["runs"][0]["baselines"]) == {"uniform", "unigram", "bigram"}
    shutil.rmtree(runs / "sharded")


def test_mistakes_are_one_line(refused, runs, workspace, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(runs / "second", changed)
    described = json.loads((changed / "run.json").read_text("utf-8"))
    described["data"]["validation_sha256"] = "0" * 64
    (changed / "run.json").write_text(json.dumps(described), "utf-8")
    alone = tmp_path / "alone"
    shutil.copytree(runs / "second" / "final", alone)
    (tmp_path / "task.jsonl").write_text(TASK + "{}\n", "utf-8")
    (tmp_path / "file").write_text("")
    second = ("--run", "second")
    for arguments, message in (
        (("--run", "nowhere"), "there is no run 'nowhere'"),
        ((*second, "--compare", "second"), "name second twice"),
        (("--run", changed), "has changed since: name one with --data"),
        (("--run", alone), "does not say what text .* name one with --data"),
        ((*second, "--data", "nowhere.txt"), "nowhere.txt does not exist"),
        ((*second, "--data", "empty.txt"), "empty.txt: there is no text to evaluate on"),
        ((*second, "--data", "cyrillic.txt"), r"cyrillic.txt is not UTF-8 text: byte 0"),
        ((*second, "--tasks", tmp_path / "task.jsonl"), r"task.jsonl, line 2: .*context"),
        ((*second, "--tasks", "nowhere.jsonl"), "nowhere.jsonl"),
        ((*second, "--out", tmp_path / "file"), "--out .*file cannot be made"),
        ((*second, "--stride", "64"), "stride=64 .*32"),
        ((*second, "--stop", "x"), "--stop does not go with them"),
        ((*second, "--prompt", "a " * 99), "the prompt 'a a .* 1 to 32 fit"),
    ):
        refused(EVALUATE, *arguments, "--device", "cpu", message=message)


def test_a_run_that_cannot_be_evaluated_is_found_before_the_work(refused, runs, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(runs / "second", damaged)
    (damaged / "final" / "model.safetensors").write_bytes(b"no weights")
    for name in ("trained", "second"):
        line = refused(EVALUATE, "--run", name, "--compare", damaged, message="damaged")
        assert "model.safetensors" in line
