"""Tasks read from files, and scored on a model whose every probability is known."""

import json
import math
import statistics
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from llm.evaluation import (
    Choice,
    ChoiceScore,
    Cloze,
    TextModel,
    read_task,
    score_choices,
    score_cloze,
    score_task,
)

CHOICE = {"context": "Кошка сидела на", "choices": ["коврике", "луне"], "answer": 0}
CLOZE = {"context": "Съешь же ещё этих мягких французских", "answer": "булок"}


class Letters(TextModel):
    """One token a character, each as likely as its weight, whatever stands before it."""

    context_length = 64
    vocab_size = 0x500
    device = torch.device("cpu")
    prefix_token_id = 0

    def __init__(self, weights):
        p = np.full(self.vocab_size, 1e-9)
        for character, weight in weights.items():
            p[ord(character)] = weight
        self.log_p = np.log(p / p.sum())

    def encode(self, text, *, add_special_tokens=False):
        return np.array([ord(character) for character in text], dtype=np.int64)

    def logits(self, input_ids, where):
        yield torch.from_numpy(self.log_p).float().expand(int(where.sum()), -1)

    def eval_mode(self):
        return nullcontext()


def quiet(score, *args, **options):
    return score(*args, show_progress=False, **options)


def question(answer, *choices, context="?"):
    return Choice(context=context, choices=choices, answer=answer)


class TestChoices:
    def test_three_ways_to_compare_choose_differently(self):
        # nats: " " costs 1, "a" 2, "bbb" 3 · 1, "жж" 2 · 1.3
        model = Letters({" ": math.exp(-1), "a": math.exp(-2), "b": math.exp(-1.0)})
        model.log_p[ord("ж")] = -1.3
        model.log_p = model.log_p - np.logaddexp.reduce(model.log_p)
        log_p = {character: model.log_p[ord(character)] for character in " abж"}
        choices = ["a", "bbb", "жж"]
        total = [log_p[" "] + sum(log_p[c] for c in choice) for choice in choices]
        by_character = [t / len(c) for t, c in zip(total, choices, strict=True)]
        by_byte = [t / len(c.encode()) for t, c in zip(total, choices, strict=True)]
        best = [max(range(3), key=scores.__getitem__) for scores in (total, by_character, by_byte)]
        assert best == [0, 1, 2]
        for answer in range(3):
            found = quiet(score_choices, model, [question(answer, *choices)])
            assert [found.acc, found.acc_norm, found.acc_bytes] == [answer == i for i in best]

    def test_shares_chance_and_standard_errors(self):
        model = Letters({"a": 0.6, "b": 0.3, " ": 0.1})
        right, wrong = question(0, "a", "b"), question(1, "a", "b", "c", "d")
        found = quiet(score_choices, model, [right, right, wrong, right, wrong])
        # s² = p (1 - p) n / (n - 1)
        stderr = math.sqrt(0.6 * 0.4 * 5 / 4 / 5)
        assert found.num_examples == 5
        assert found.acc == found.acc_norm == found.acc_bytes == pytest.approx(0.6)
        assert found.acc_stderr == pytest.approx(stderr)
        assert found.acc_norm_stderr == found.acc_bytes_stderr == found.acc_stderr
        assert found.chance == pytest.approx((3 * 0.5 + 2 * 0.25) / 5)

    def test_one_question_has_no_standard_error(self):
        found = quiet(score_choices, Letters({"a": 1}), [question(0, "a", "b")])
        assert found == ChoiceScore(
            num_examples=1, chance=0.5, acc=1, acc_stderr=None, acc_norm=1,
            acc_norm_stderr=None, acc_bytes=1, acc_bytes_stderr=None,
        )  # fmt: skip
        fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert fields["acc"] == 1
        assert fields["acc_stderr"] is None
        assert len(fields) == 8

    def test_of_equal_choices_the_first_is_chosen(self):
        model = Letters({"a": 1, "b": 1})
        for answer in range(2):
            found = quiet(score_choices, model, [question(answer, "a", "b")])
            assert found.acc == found.acc_norm == found.acc_bytes == (answer == 0)

    def test_the_delimiter_counts_in_the_likelihood_and_not_in_the_length(self):
        # by characters: "a" -1 against "bb" -0.95; a delimiter of -4 adds -4 and -2
        model = Letters({})
        model.log_p[:] = -20.0
        for character, value in {"a": -1.0, "b": -1.1, "_": -4.0}.items():
            model.log_p[ord(character)] = value
        model.log_p[1] = math.log1p(-np.exp(model.log_p).sum() + math.exp(-20))
        examples = [question(0, "a", "bb")]
        assert quiet(score_choices, model, examples, delimiter="").acc_norm == 1
        assert quiet(score_choices, model, examples, delimiter="_").acc_norm == 0


class TestCloze:
    def test_is_right_where_every_token_is_the_likeliest(self):
        model = Letters({"ж": 0.7, "a": 0.2, "_": 0.1})
        examples = [Cloze(context="?", answer=answer) for answer in ("ж", "жж", "жa")]
        found = quiet(score_cloze, model, examples, delimiter="")
        losses = [-math.log(0.7), -2 * math.log(0.7), -math.log(0.7) - math.log(0.2)]
        assert found.num_examples == 3
        assert found.acc == pytest.approx(2 / 3)
        assert found.acc_stderr == pytest.approx(statistics.stdev([1, 1, 0]) / math.sqrt(3))
        assert found.loss == pytest.approx(statistics.mean(losses), rel=1e-5)
        assert found.loss_stderr == pytest.approx(statistics.stdev(losses) / math.sqrt(3), rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(statistics.mean(losses)), rel=1e-5)
        assert found.perplexity_stderr == pytest.approx(found.perplexity * found.loss_stderr)
        assert found.to_dict() == {
            "num_examples": 3, "acc": found.acc, "acc_stderr": found.acc_stderr,
            "loss": found.loss, "loss_stderr": found.loss_stderr,
            "perplexity": found.perplexity, "perplexity_stderr": found.perplexity_stderr,
        }  # fmt: skip

    def test_the_delimiter_is_foretold_too(self):
        model = Letters({"a": 0.5, " ": 0.25, "_": 0.25})
        found = quiet(score_cloze, model, [Cloze(context="?", answer="a")])
        assert found.loss == pytest.approx(-math.log(0.5 * 0.25), rel=1e-5)
        assert found.acc == 0

    def test_what_overflows_is_infinite_and_none_in_json(self):
        model = Letters({"b": 1})
        examples = [Cloze(context="?", answer="a" * n) for n in (60, 59)]
        found = quiet(score_cloze, model, examples)
        assert found.perplexity == math.inf
        fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert fields["perplexity"] is None
        assert fields["perplexity_stderr"] is None
        assert fields["loss"] > 1000


class TestBothKinds:
    def test_are_told_apart(self):
        model = Letters({"a": 0.9})
        choices = [question(0, "a", "b")] * 2
        cloze = [Cloze(context="?", answer="a")] * 3
        assert quiet(score_task, model, choices) == quiet(score_choices, model, choices)
        assert quiet(score_task, model, cloze) == quiet(score_cloze, model, cloze)

    @pytest.mark.parametrize(
        "examples", [[question(0, "a", "b"), Cloze(context="?", answer="a")], ["a"]]
    )
    def test_are_not_mixed(self, examples):
        with pytest.raises(TypeError, match="all Choice or all Cloze"):
            quiet(score_task, Letters({}), examples)

    @pytest.mark.parametrize("score", [score_task, score_choices, score_cloze])
    def test_need_examples(self, score):
        with pytest.raises(ValueError, match="there are no examples"):
            quiet(score, Letters({}), [])

    def test_errors_name_the_example(self):
        fits, long = question(0, "a", "b"), question(0, "a", "b" * 80)
        with pytest.raises(ValueError, match=r"examples\[1\]: .* has 81 tokens"):
            quiet(score_choices, Letters({}), [fits, long])
        here = Cloze(context="?", answer="a" * 80, source="here.jsonl, line 3")
        with pytest.raises(ValueError, match=r"here.jsonl, line 3: .* has 81 tokens"):
            quiet(score_cloze, Letters({}), [here])


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "задача.jsonl"
        content = b"\n".join(
            line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()
            for line in lines
        )
        path.write_bytes(content)
        return path

    return write


class TestFiles:
    def test_multiple_choice(self, write):
        path = write(CHOICE, b"", {**CHOICE, "context": "", "answer": 1}, b"  \r")
        first, second = read_task(path)
        assert first == Choice(
            context="Кошка сидела на",
            choices=("коврике", "луне"),
            answer=0,
            source=f"{path}, line 1",
        )
        assert (second.context, second.answer, second.source) == ("", 1, f"{path}, line 3")
        # frozen through and through
        assert isinstance(hash(first), int)

    def test_cloze_with_a_mark_of_byte_order_and_windows_line_ends(self, write):
        path = write(b"\xef\xbb\xbf" + json.dumps(CLOZE).encode() + b"\r", CLOZE)
        first, second = read_task(str(path))
        assert first == Cloze(**CLOZE, source=f"{path}, line 1")
        assert second == Cloze(**CLOZE, source=f"{path}, line 2")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b'{"context": "a", ', "not valid JSON: .* at column 18"),
            (b'{"context": "\xff"}', "'utf-8' codec can't decode"),
            (b"[1]", "a JSON list, not an object"),
            (b"[" * 100_000, "nested too deeply"),
            ({"context": "a", "choices": ["b", "c"]}, "multiple-choice example needs answer"),
            ({"context": "a"}, "cloze example needs answer"),
            ({**CLOZE, "contxt": "a"}, "no field 'contxt'; did you mean 'context'"),
            ({**CLOZE, "source": "a"}, "no field 'source'"),
            ({**CHOICE, "answer": 2}, "answer=2 must be a whole number .* at most 1"),
            ({**CHOICE, "answer": -1}, "answer=-1"),
            ({**CHOICE, "answer": "коврике"}, "answer='коврике' must be a whole number"),
            ({**CHOICE, "answer": True}, "answer=True"),
            ({**CHOICE, "choices": ["a"]}, r"choices=\['a'\] must be a list of two or more"),
            ({**CHOICE, "choices": "ab"}, "choices='ab' must be a list"),
            ({**CHOICE, "choices": {"a": 1, "b": 2}}, "must be a list"),
            ({**CHOICE, "choices": ["a", ""]}, r"choices\[1\]='' must be text, not empty"),
            ({**CHOICE, "choices": ["a", 1]}, r"choices\[1\]=1 must be text"),
            ({**CHOICE, "context": None}, "context=None must be text"),
            ({**CLOZE, "answer": ""}, "answer='' must be text, not empty"),
            ({**CLOZE, "answer": 1}, "answer=1 must be text"),
            (b'{"context": "\\ud83d", "answer": "a"}', "half of a character"),
            (b'{"context": "?", "choices": ["a", "\\ude00"], "answer": 0}', r"choices\[1\].*half"),
        ],
    )
    def test_errors_name_file_and_line(self, write, line, message):
        good = CHOICE if b"choices" in str(line).encode() else CLOZE
        path = write(good, b"", line, good)
        with pytest.raises(ValueError, match=message) as error:
            read_task(path)
        assert str(error.value).startswith(f"{path}, line 3: ")

    def test_one_kind_a_file(self, write):
        path = write(CHOICE, CLOZE)
        with pytest.raises(ValueError, match="line 2: multiple choice and cloze are mixed"):
            read_task(path)

    def test_without_examples(self, write, tmp_path):
        with pytest.raises(ValueError, match="holds no examples"):
            read_task(write(b"", b"  "))
        with pytest.raises(FileNotFoundError, match=r"none\.jsonl does not exist"):
            read_task(tmp_path / "none.jsonl")
        with pytest.raises(ValueError, match="not a regular file"):
            read_task(tmp_path)
