"""Figures of texts, by hand and against nltk's."""

import random
import unicodedata

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llm.evaluation.text_metrics import bleu, distinct_n, ngrams, repetition_n, self_bleu, words


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("The cat sat, twice.", ["The", "cat", "sat", ",", "twice", "."]),
            ("Кошка сидела\nна коврике…", ["Кошка", "сидела", "на", "коврике", "…"]),
            ("ёж — это ёжик!", ["ёж", "—", "это", "ёжик", "!"]),
            ("за́мок и замо́к", ["за́мок", "и", "замо́к"]),  # stresses, which have no composed form
            ("x_1 = 25 000₽", ["x_1", "=", "25", "000", "₽"]),
            ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are marks
            (" \t\n", []),
            ("", []),
        ],
    )
    def test_are_those_of_any_script(self, text, expected):
        assert words(text) == expected

    def test_are_the_same_composed_or_not(self):
        text = "Мой ёжик читает"
        apart = unicodedata.normalize("NFD", text)
        assert apart != text
        assert words(apart) == words(text) == text.split()


def test_ngrams():
    assert ngrams("абвг", 3) == [("а", "б", "в"), ("б", "в", "г")]
    assert ngrams("аб", 3) == []
    with pytest.raises(ValueError, match="n=0"):
        ngrams("аб", 0)


class TestRepetition:
    def test_distinct_counts_over_all_texts(self):
        texts = [["а", "б", "а", "б"], ["а", "б", "в"]]
        assert distinct_n(texts, 1) == 3 / 7
        assert distinct_n(texts, 2) == 3 / 5  # аб ба аб, аб бв
        assert distinct_n(texts, 4) == 1
        assert distinct_n(texts, 5) is None
        assert distinct_n([], 1) is None

    def test_repetition_is_of_each_text_alone(self):
        texts = [["а", "б", "а", "б", "а", "б"], ["а", "б", "в"], ["а"]]
        # аб ба аб ба аб: 2 of 5; аб бв: 2 of 2; the last has no pair
        assert repetition_n(texts, 2) == pytest.approx((3 / 5 + 0) / 2)
        assert repetition_n(texts, 1) == pytest.approx((4 / 6 + 0 + 0) / 3)
        assert repetition_n(texts, 7) is None

    def test_a_loop_repeats_nearly_everything(self):
        assert repetition_n([["а"] * 103], 4) == pytest.approx(0.99)
        assert repetition_n([[str(i) for i in range(103)]], 4) == 0


class TestBLEU:
    @pytest.mark.parametrize("seed", range(60))
    def test_is_nltks(self, seed):
        draw = random.Random(seed)
        vocabulary = [chr(ord("а") + i) for i in range(draw.choice([2, 4, 12]))]

        def text():
            return draw.choices(vocabulary, k=draw.randint(1, 14))

        hypothesis, references = text(), [text() for _ in range(draw.randint(1, 5))]
        expected = sentence_bleu(
            references, hypothesis, smoothing_function=SmoothingFunction().method1
        )
        assert bleu(hypothesis, references) == pytest.approx(expected, abs=1e-12)

    def test_of_references_as_close_in_length_the_shorter_counts(self):
        text = ["а", "б", "в", "г", "д"]
        shorter, longer = text[:4], [*text, "е"]
        assert bleu(text, [longer, shorter]) == bleu(text, [shorter, longer]) == pytest.approx(1)
        assert bleu(text, [longer]) < 1

    def test_ends(self):
        text = ["кошка", "сидела", "на", "тёплом", "коврике"]
        assert bleu(text, [text]) == pytest.approx(1)
        assert bleu(text, [["dog"] * 5]) == 0
        assert bleu([], [text]) == 0

    def test_self_bleu_is_each_against_the_others(self):
        texts = [list("абвгдежз"), list("абвгд"), list("абжзгдв")]
        expected = [
            bleu(texts[0], [texts[1], texts[2]]),
            bleu(texts[1], [texts[0], texts[2]]),
            bleu(texts[2], [texts[0], texts[1]]),
        ]
        assert len(set(expected)) == 3
        assert self_bleu(texts) == pytest.approx(sum(expected) / 3)
        assert self_bleu([texts[0]] * 3) == pytest.approx(1)
        assert self_bleu([["а"] * 4, ["б"] * 4]) == 0
        assert self_bleu(texts[:1]) is None
