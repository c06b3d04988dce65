"""The generation report: texts as generation gives them, figures by hand, a clock that is known."""

import json
import re
import types

import pytest
import torch

from llm.evaluation import report_generation, timed_generation
from llm.evaluation.text_metrics import distinct_n, repetition_n, self_bleu
from llm.evaluation.timed_generation import Latency, Sample, Speed, time_generation
from llm.evaluation.variety import Variety
from llm.generation import PromptLookup, generate_text, prepare
from llm.tokenizers import BPETokenizer

TEXTS = [
    "The cat sat on the mat, and the dog lay by the door.",
    "Кошка сидела на коврике, а собака лежала у двери.",
]
PROMPTS = ["The cat", "Кошка сидела на", ""]


@pytest.fixture(scope="module")
def bpe():
    tokenizer = BPETokenizer()
    special = ["<pad>", "<bos>", "<eos>"]
    tokenizer.train(TEXTS, vocab_size=320, special_tokens=special, show_progress=False)
    return tokenizer


@pytest.fixture
def make(bpe, make_model):
    def make(model_type="gpt2", **fields):
        # more ids than the tokenizer has, which must not be chosen
        fields = {"vocab_size": len(bpe) + 5, "max_position_embeddings": 40, **fields}
        return make_model(model_type, **fields)

    return make


@pytest.fixture
def report(bpe):
    def report(model, prompts=PROMPTS, **options):
        options = {"max_new_tokens": 6, "do_sample": True, **options}
        return report_generation(model, bpe, prompts, show_progress=False, **options)

    return report


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: a model of `run_by` moves it on."""

    class Clock:
        now = 0.0

        def run_by(self, model, cost):
            """Each forward costs `cost(tokens)` seconds."""

            def forward(_, args):
                self.now += cost(args[0].shape[1])

            model.decoder.register_forward_pre_hook(forward)

    clock = Clock()
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(timed_generation, "time", fake)
    return clock


class TestTexts:
    def test_are_those_of_generation(self, make, report, bpe, model_type):
        model = make(model_type)
        options = {"temperature": 0.8, "do_sample": True}
        found = report(
            model, samples_per_prompt=3, generator=torch.Generator().manual_seed(7), **options
        )
        generator = torch.Generator().manual_seed(7)
        for prompt, texts in zip(PROMPTS, found.texts, strict=True):
            for text in texts:
                assert text == generate_text(
                    model, bpe, prompt, max_new_tokens=6, generator=generator, **options
                )
        assert found.prompts == tuple(PROMPTS)
        assert [len(texts) for texts in found.texts] == [3, 3, 3]
        assert len({text for texts in found.texts for text in texts}) > 5
        assert found.variety == Variety.of(found.texts)

    def test_leave_the_global_random_numbers_to_the_texts(self, make, report):
        model = make()
        torch.manual_seed(3)
        expected = report(model).texts
        torch.manual_seed(3)
        assert report(model, generator=torch.default_generator).texts == expected

    @pytest.mark.parametrize(
        "options", [{"use_cache": False}, {"drafter": PromptLookup(num_tokens=3)}, {"prepare": 1}]
    )
    def test_are_the_same_by_every_way_of_generation(self, make, report, options):
        model = make()
        greedy = {"samples_per_prompt": 1, "do_sample": False}
        expected = report(model, **greedy)
        if options.pop("prepare", None):
            model = prepare(model)
        found = report(model, **greedy, **options)
        assert found.texts == expected.texts
        assert found.speed.new_tokens == expected.speed.new_tokens == 18

    def test_a_training_model_comes_back_training(self, make, report):
        model = make(dropout=0.5)
        expected = report(model, generator=torch.Generator().manual_seed(0)).texts
        model.train()
        assert report(model, generator=torch.Generator().manual_seed(0)).texts == expected
        assert all(module.training for module in model.modules())


class TestClock:
    def test_prefill_and_tokens_are_told_apart(self, make, bpe, clock):
        model = make()
        clock.run_by(model, lambda tokens: 0.5 * tokens)
        prompt = "Кошка сидела на коврике"
        length = len(bpe.encode(prompt))
        assert length > 3
        sample = time_generation(model, bpe, prompt, max_new_tokens=5)
        assert sample.prompt_tokens == length
        assert sample.seconds == (0.5 * length, 0.5, 0.5, 0.5, 0.5)
        # without a cache each token costs the whole text
        sample = time_generation(model, bpe, prompt, max_new_tokens=3, use_cache=False)
        assert sample.seconds == tuple(0.5 * (length + i) for i in range(3))

    def test_an_empty_prompt_is_one_token(self, make, bpe, clock):
        model = make()
        clock.run_by(model, lambda tokens: tokens)
        sample = time_generation(model, bpe, "", max_new_tokens=1)
        assert (sample.prompt_tokens, sample.seconds) == (1, (1.0,))

    def test_what_a_prompt_costs_but_once_is_not_measured(self, make, report, clock, bpe):
        model = make()
        known = set()

        def cost(tokens):
            first = tokens not in known
            known.add(tokens)
            return 1000.0 if first else 1.0

        clock.run_by(model, cost)
        speed = report(model, samples_per_prompt=2).speed
        assert speed.prefill == Latency(median=1.0, p95=1.0)
        assert speed.token == Latency(median=1.0, p95=1.0)
        assert speed.new_tokens == 3 * 2 * 6
        assert speed.tokens_per_second == 1.0
        lengths = [len(bpe.encode(prompt)) or 1 for prompt in PROMPTS]
        assert speed.prompt_tokens == 2 * sum(lengths)
        assert speed.prefill_tokens_per_second == pytest.approx(sum(lengths) / 3)

    def test_eos_ends_a_text_and_counts_as_a_token(self, make, bpe, clock):
        model = make(tie_embeddings=False)
        clock.run_by(model, lambda tokens: tokens)
        first = model.generate(torch.tensor([bpe.encode("The")]), max_new_tokens=4)[0, -4:]
        end = int(first[2])
        assert end not in first[:2]
        sample = time_generation(model, bpe, "The", max_new_tokens=9, eos_token_id=end)
        assert len(sample.seconds) == 3

    def test_speed_by_hand(self):
        samples = [
            Sample(text="", prompt_tokens=10, seconds=(2.0, 1.0, 3.0)),
            Sample(text="", prompt_tokens=2, seconds=(4.0,)),
            Sample(text="", prompt_tokens=6, seconds=(3.0, 2.0)),
        ]
        speed = Speed.of(samples)
        assert (speed.prompt_tokens, speed.new_tokens) == (18, 6)
        assert speed.tokens_per_second == 6 / 15
        assert speed.prefill_tokens_per_second == 18 / 9
        assert (speed.prefill.median, speed.token.median) == (3, 2)
        # between the last two of three, 0.95 · 2 = 1.9 from the first
        assert speed.prefill.p95 == pytest.approx(3.9)
        assert speed.token.p95 == pytest.approx(2.9)
        assert Speed.of(samples[1:2]).token is None

    def test_the_real_clock(self, make, report):
        speed = report(make()).speed
        assert 0 < speed.prefill.median <= speed.prefill.p95 < 60
        assert 0 < speed.token.median <= speed.token.p95 < 60


class TestVariety:
    def test_by_hand(self):
        texts = [["а б а б а б", "а б в г д"], ["", "Кот спит.", "кот спит!"], ["мяу"]]
        words = [
            text.replace(".", " .").replace("!", " !").split() for each in texts for text in each
        ]
        spoken = [text for text in words if text]
        found = Variety.of(texts)
        assert (found.num_texts, found.num_empty, found.num_words) == (6, 1, 18)
        assert found.distinct_1 == distinct_n(spoken, 1) == 11 / 18
        assert found.distinct_2 == distinct_n(spoken, 2) == 9 / 13
        assert found.distinct_3 == distinct_n(spoken, 3) == 7 / 9
        assert found.repetition_4 == repetition_n(spoken, 4) == pytest.approx((1 / 3 + 0) / 2)
        # the last prompt has one text, which there is nothing to compare with
        alike = [self_bleu(words[:2]), self_bleu(words[3:5])]
        assert found.self_bleu == pytest.approx(sum(alike) / 2)
        assert alike[0] != alike[1]

    def test_of_nothing_said_nothing_is_known(self):
        found = Variety.of([["", " "], [""]])
        assert found == Variety(
            num_texts=3, num_empty=3, num_words=0, distinct_1=None, distinct_2=None,
            distinct_3=None, repetition_4=None, self_bleu=None,
        )  # fmt: skip

    def test_a_loop_and_a_copy_are_seen(self):
        found = Variety.of([["да да да да да да да да"] * 2])
        assert found.self_bleu == pytest.approx(1)
        assert found.repetition_4 == pytest.approx(0.8)


class TestForms:
    def test_json(self, make, report):
        found = report(make(), samples_per_prompt=2)
        fields = json.loads(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
        assert fields["prompts"] == PROMPTS
        assert fields["texts"] == [list(texts) for texts in found.texts]
        assert fields["variety"]["distinct_2"] == found.variety.distinct_2
        assert fields["speed"]["prefill"]["p95"] == found.speed.prefill.p95

    def test_table(self, make, report, clock):
        model = make()
        clock.run_by(model, lambda tokens: 0.25)
        table = report(model, samples_per_prompt=2).table()
        rows = dict(re.split(r"  +", line, maxsplit=1) for line in table.splitlines())
        assert rows["texts"].startswith("6 of 3 prompts")
        assert rows["new tokens"] == "36"
        assert rows["tokens/s"] == "4.0"
        assert rows["prefill, ms"] == "median 250.00, 95% within 250.00"
        assert rows["token, ms"] == "median 250.00, 95% within 250.00"
        assert re.fullmatch(r"0\.\d{3}, [01]\.\d{3}, [01]\.\d{3}", rows["distinct-1, -2, -3"])
        single = report(model, samples_per_prompt=1, max_new_tokens=1).table()
        rows = dict(re.split(r"  +", line, maxsplit=1) for line in single.splitlines())
        assert rows["token, ms"] == rows["self-BLEU"] == "-"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "options", "message"),
        [
            (TypeError, {"prompts": "The cat"}, "prompts is one string"),
            (ValueError, {"prompts": []}, "no prompts"),
            (ValueError, {"max_new_tokens": 0}, "max_new_tokens=0"),
            (ValueError, {"samples_per_prompt": 0}, "samples_per_prompt=0"),
            (ValueError, {"samples_per_prompt": 2, "do_sample": False}, "the same text again"),
            (ValueError, {"temperature": -1}, "temperature=-1"),
            (ValueError, {"generator": 3}, "generator=3"),
        ],
    )
    def test_say_what_is_wrong(self, make, report, error, options, message):
        with pytest.raises(error, match=message):
            report(make(), **options)

    def test_a_prompt_with_nothing_to_begin_after(self, make):
        tokenizer = BPETokenizer()
        tokenizer.train(TEXTS, vocab_size=300, special_tokens=[], show_progress=False)
        with pytest.raises(ValueError, match="prompt is empty"):
            report_generation(make(), tokenizer, [""], max_new_tokens=2, samples_per_prompt=1)
