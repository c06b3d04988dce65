"""Log-likelihoods against a plain loop over one pair at a time."""

import math
import random

import numpy as np
import pytest
import torch

from llm.evaluation import LogLikelihood, log_likelihoods, text_model
from llm.tokenizers import BPETokenizer

TEXTS = [
    "The cat sat on the mat, and the dog lay by the door.",
    "Кошка сидела на коврике, а собака лежала у двери.",
    "A small model learns a small book by heart.",
    "Маленькая модель учит маленькую книгу наизусть.",
]
CONTEXT = 24
PAIRS = [
    ("The cat sat", " on the mat"),
    ("The cat sat", " by"),
    ("Кошка сидела", " на коврике"),
    ("Кошка", " сидела на коврике, а собака лежала у двери."),
    ("", "A small model"),
    ("", "Кошка"),
    ("The d", "og lay"),
    ("A small ", "book"),
    ("A small \n", " book"),
    (" ".join(TEXTS), " книгу"),
    ("ещё 🐈", " мяу 🐕"),
]


@pytest.fixture(scope="module")
def bpe():
    tokenizer = BPETokenizer()
    special = ["<pad>", "<bos>", "<eos>"]
    tokenizer.train(TEXTS, vocab_size=340, special_tokens=special, show_progress=False)
    return tokenizer


@pytest.fixture(scope="module")
def make_text_model(bpe, make_model):
    def make(model_type="gpt2", **fields):
        fields = {"max_position_embeddings": CONTEXT, "bos_token_id": bpe.eos_token_id, **fields}
        model = make_model(model_type, vocab_size=len(bpe) + 3, **fields)
        return text_model(model, bpe)

    return make


def score(model, pairs, **options):
    return log_likelihoods(model, pairs, show_progress=False, **options)


def values(found):
    return [each.value for each in found]


@torch.no_grad()
def plain(model, bpe, context, continuation, length=CONTEXT):
    """One pair, one forward for each token, all in float64."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    start = len(bpe.encode(context))
    ids = bpe.encode(context + continuation)
    if not context:
        ids, start = [bpe.eos_token_id, *ids], 1
    # the harness: what does not fit is cut from the left, once for the whole pair
    cut = max(len(ids) - length - 1, 0)
    total, is_greedy = 0.0, True
    for place in range(start, len(ids)):
        logits = model(torch.tensor([ids[cut:place]]))[0, -1].double()
        total += logits.log_softmax(-1)[ids[place]].item()
        is_greedy &= int(logits.argmax()) == ids[place]
    return LogLikelihood(total, is_greedy)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_batch_gives_what_one_token_at_a_time_gives(make_text_model, bpe, model_type, batch_size):
    model = make_text_model(model_type)
    assert len(bpe.encode(PAIRS[9][0])) > CONTEXT  # so that one is cut
    expected = [plain(model.model, bpe, *pair) for pair in PAIRS]
    found = score(model, PAIRS, batch_size=batch_size)
    assert values(found) == pytest.approx(values(expected), abs=1e-5)
    assert [each.is_greedy for each in found] == [each.is_greedy for each in expected]
    # else the tolerance would hide a mistake
    assert min(abs(a - b) for i, a in enumerate(values(found)) for b in values(found)[:i]) > 1e-3


def test_the_order_of_pairs_is_kept_and_changes_nothing(make_text_model):
    model = make_text_model()
    order = list(range(len(PAIRS)))
    random.Random(0).shuffle(order)
    straight = score(model, PAIRS, batch_size=4)
    shuffled = score(model, (PAIRS[index] for index in order), batch_size=4)
    expected = [straight[index].value for index in order]
    assert values(shuffled) == pytest.approx(expected, abs=1e-5)
    assert score(model, []) == []


def test_the_likeliest_continuation_is_greedy_and_no_other(make_text_model, bpe):
    found = 0
    for seed in range(30):
        model = make_text_model(seed=seed, tie_embeddings=False)
        ids = bpe.encode("The cat")
        prompt = torch.tensor([ids])
        new = model.model.generate(prompt, max_new_tokens=2, eos_token_id=(), vocab_size=len(bpe))
        text = bpe.decode(new[0, len(ids) :].tolist())
        # one that survives the way through text, and is the likeliest of all the ids
        if bpe.encode("The cat" + text) != new[0].tolist():
            continue
        logits = model.model(new)[0, len(ids) - 1 : -1]
        if not torch.equal(logits.argmax(-1), new[0, len(ids) :]):
            continue
        found += 1
        first, longer, other = score(
            model, [("The cat", text), ("The cat", text + " mat"), ("The cat", " sat")]
        )
        assert first.is_greedy
        assert first.value > longer.value
        assert other.is_greedy == (text.startswith(" sat"))
    assert found >= 3


def test_spaces_that_end_the_context_belong_to_the_continuation(make_text_model):
    model = make_text_model()
    here, there = score(model, [("The cat \n ", "sat"), ("The cat", " \n sat")])
    assert here.value == pytest.approx(there.value, abs=1e-6)


def test_a_uniform_model_gives_each_token_log_v(make_text_model, bpe):
    model = make_text_model()
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.zero_()
    [found] = score(model, [("The cat", " sat on the mat")])
    tokens = len(bpe.encode("The cat sat on the mat")) - len(bpe.encode("The cat"))
    assert found.value == pytest.approx(-tokens * math.log(len(bpe) + 3), rel=1e-6)


def test_a_continuation_splits_into_its_parts(make_text_model, bpe):
    model = make_text_model()
    whole, first, second = score(
        model,
        [
            ("The cat", " sat on"),
            ("The cat", " sat"),
            ("The cat sat", " on"),
        ],
    )
    assert bpe.encode("The cat") + bpe.encode(" sat") + bpe.encode(" on") == bpe.encode(
        "The cat sat on"
    )
    assert whole.value == pytest.approx(first.value + second.value, abs=1e-5)


def test_the_context_is_cut_from_the_left(make_text_model, bpe):
    model = make_text_model()
    context = " ".join(TEXTS)
    ids = bpe.encode(context + " книгу")
    num_targets = len(ids) - len(bpe.encode(context))
    for length in (CONTEXT, num_targets + 1, num_targets):
        [found] = score(model, [(context, " книгу")], context_length=length)
        kept = torch.tensor([ids[-length - 1 :]])
        with torch.no_grad():
            log_probs = model.model(kept[:, :-1])[0].double().log_softmax(-1)
        picked = log_probs.gather(-1, kept[0, 1:, None])[-num_targets:]
        assert found.value == pytest.approx(picked.sum().item(), abs=1e-5)


def test_a_continuation_may_fill_the_context_and_not_more(make_text_model, bpe):
    model = make_text_model()
    text = "Кошка сидела на"
    length = len(bpe.encode(text))
    [found] = score(model, [("", text)], context_length=length)
    assert found.value == pytest.approx(plain(model.model, bpe, "", text).value, abs=1e-5)
    with pytest.raises(
        ValueError, match=rf"pairs\[1\]: .*'Кошка.* has {length} tokens.*{length - 1}"
    ):
        score(model, [("", "A"), ("", text)], context_length=length - 1)


def test_special_tokens_in_a_text_are_text(make_text_model, bpe):
    model = make_text_model()
    [found] = score(model, [("The cat<eos>", " sat")])
    ids = bpe.encode("The cat<eos> sat")
    assert bpe.eos_token_id not in ids
    assert found.value == pytest.approx(
        plain(model.model, bpe, "The cat<eos>", " sat").value, abs=1e-5
    )


def test_the_template_of_a_tokenizer_stands_before_the_context():
    from llm.evaluation.log_likelihood import encode_pair
    from llm.evaluation.text_model import TextModel

    class Marked(TextModel):
        """One id a character, and a template of one before and one after."""

        prefix_token_id = 7

        def encode(self, text, *, add_special_tokens=False):
            ids = [ord(character) for character in text]
            return np.array([1, *ids, 2] if add_special_tokens else ids, dtype=np.int64)

        def logits(self, input_ids, where):
            raise NotImplementedError

        def eval_mode(self):
            raise NotImplementedError

    Marked.vocab_size = 2000
    row = encode_pair(Marked(), "ab", "c", 10)
    assert (row.ids.tolist(), row.num_targets) == ([1, 97, 98, 99], 1)
    row = encode_pair(Marked(), "", "c", 10)
    assert (row.ids.tolist(), row.num_targets) == ([7, 99], 1)


class TestErrors:
    @pytest.mark.parametrize(
        ("pair", "options", "message"),
        [
            (("The cat", ""), {}, r"pairs\[0\]: the continuation '' has no tokens"),
            (("", ""), {}, r"pairs\[0\]: the continuation '' has no tokens"),
            (("The cat", ""), {"names": ["a.jsonl, line 7"]}, "a.jsonl, line 7: the continuation"),
            (("a", "b"), {"batch_size": 0}, "batch_size=0"),
            (("a", "b"), {"context_length": CONTEXT + 1}, f"context_length={CONTEXT + 1}"),
            (("a", "b"), {"context_length": 0}, "context_length=0"),
        ],
    )
    def test_say_what_is_wrong(self, make_text_model, pair, options, message):
        with pytest.raises(ValueError, match=message):
            score(make_text_model(), [pair], **options)

    def test_nothing_to_begin_after(self, make_model):
        tokenizer = BPETokenizer()
        tokenizer.train(TEXTS, vocab_size=300, special_tokens=[], show_progress=False)
        model = text_model(make_model("gpt2", vocab_size=len(tokenizer)), tokenizer)
        assert len(score(model, [("The", " cat")])) == 1
        with pytest.raises(ValueError, match=r"pairs\[1\]: .*prefix_token_id"):
            score(model, [("The", " cat"), ("", "The")])

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_logits_that_are_not_finite_give_no_score(self, make_text_model, bad):
        model = make_text_model()
        with torch.no_grad():
            model.model.decoder.final_norm.weight.fill_(bad)
        with pytest.raises(ValueError, match=r"pairs\[0\]: the model's logits are not finite"):
            score(model, [("The", " cat")])

    def test_a_token_that_the_model_rules_out_gives_no_score(self, make_text_model, bpe):
        model = make_text_model()
        ruled_out = bpe.encode(" cat", add_special_tokens=False)[0]
        model.model.lm_head.register_forward_hook(
            lambda head, inputs, logits: logits.index_fill(-1, torch.tensor(ruled_out), -math.inf)
        )
        assert math.isfinite(score(model, [("The", " dog")])[0].value)
        with pytest.raises(ValueError, match=r"pairs\[0\]: the model's logits are not finite"):
            score(model, [("The", " cat")])


def test_each_part_comes_back_in_its_mode_and_dropout_is_off(make_text_model):
    model = make_text_model(dropout=0.5)
    expected = values(score(model, PAIRS))
    model.model.train()
    model.model.lm_head.eval()
    modes = [module.training for module in model.model.modules()]
    assert values(score(model, PAIRS)) == expected
    assert [module.training for module in model.model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.model.parameters())
