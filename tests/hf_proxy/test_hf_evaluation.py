"""Perplexity of transformers' models: the figures of ours, of the recipe, of the definition."""

import logging
import math
import os

import pytest
import torch

from llm.evaluation import perplexity as own_perplexity
from llm.tokenizers import BPETokenizer

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_proxy import HFAdapter, HFTokenizerAdapter, hf_text_model, perplexity

TEXTS = [
    "The cat sat on the mat, and the dog sat on the log. Nobody asked them why.",
    "Кошка сидела на окне, а собака лежала у двери. Никто не спросил их, почему.",
]
TEXT = " ".join(TEXTS) + " Щи <eos> да каша — пища наша: 42 € 😀 the end"


def train(*special_tokens, **options):
    tokenizer = BPETokenizer()
    tokenizer.train(TEXTS, 300, special_tokens, show_progress=False, **options)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    """Its template puts <bos> before and <eos> after a text, which evaluation does not want."""
    return train("<pad>", "<bos>", "<eos>", add_bos=True, add_eos=True)


@pytest.fixture(scope="module")
def endless():
    """A tokenizer without <bos> and <eos>."""
    return train()


@pytest.fixture
def opened(tmp_path):
    """Transformers' own classes of what a model and a tokenizer of ours were saved as."""

    def open_stock(model, tokenizer):
        model.save_pretrained(tmp_path)
        tokenizer.save(tmp_path)
        stock = AutoModelForCausalLM.from_pretrained(tmp_path)
        their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        for each in (stock, their_tokenizer):
            assert type(each).__module__.startswith("transformers.")
        return stock, their_tokenizer

    return open_stock


def assert_equal(score, expected):
    assert (score.num_targets, score.num_bytes) == (expected.num_targets, expected.num_bytes)
    assert score.total_loss == pytest.approx(expected.total_loss, rel=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"context": 13, "stride": 13}, {"context": 9, "stride": 2}]
)
def test_the_figures_of_ours(model_type, make_model, tokenizer, opened, options):
    model = make_model(model_type, vocab_size=len(tokenizer))
    texts = [TEXT, "", "мат", TEXT[:60]]
    expected = own_perplexity(model, tokenizer, texts, **options)
    adapted = HFAdapter.from_llm_model(model), HFTokenizerAdapter(tokenizer)
    for hf_model, hf_tokenizer in (adapted, opened(model, tokenizer)):
        for batch_size in (1, 8):
            assert_equal(
                perplexity(hf_model, hf_tokenizer, texts, batch_size=batch_size, **options),
                expected,
            )


def test_the_figures_of_ours_where_a_text_begins_after_nothing(make_model, endless, opened):
    model = make_model("gpt2", vocab_size=len(endless))
    stock = opened(model, endless)
    adapted = HFAdapter.from_llm_model(model), HFTokenizerAdapter(endless)
    for text in (TEXT, TEXT[::-1], "щи и мат", "😀 кот"):
        expected = own_perplexity(model, endless, text)
        first = endless.decode_bytes(endless.encode(text)[:1])
        assert expected.num_bytes == len(text.encode()) - len(first)
        for pair in (adapted, stock):
            assert_equal(perplexity(*pair, text), expected)


@torch.no_grad()
def known_recipe(model, ids, max_length, stride):
    """Windows of max_length ids, of which the labels that an earlier one had are -100.

    As transformers' documentation, "Perplexity of fixed-length models", does it; the loss is
    the model's own, a mean over the labels that are left after its shift.
    """
    total, seen = 0.0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        input_ids = torch.tensor([ids[begin:end]])
        labels = input_ids.clone()
        labels[:, : max(0, seen - begin)] = -100
        num_targets = int((labels[:, 1:] != -100).sum())
        total += model(input_ids=input_ids, labels=labels).loss.item() * num_targets
        seen = end
        if end == len(ids):
            return total
    raise AssertionError("there are no ids")


@pytest.mark.parametrize(("context", "stride"), [(12, 12), (12, 5), (39, 20)])
def test_the_figures_of_the_known_recipe(
    model_type, make_model, tokenizer, opened, context, stride
):
    stock, their_tokenizer = opened(make_model(model_type, vocab_size=len(tokenizer)), tokenizer)
    # as they are written, with nothing around them
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    expected = known_recipe(stock, [tokenizer.eos_token_id, *ids], context + 1, stride)
    score = perplexity(stock, their_tokenizer, TEXT, context=context, stride=stride)
    assert score.num_targets == len(ids)
    assert score.total_loss == pytest.approx(expected, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(expected / math.log(2) / len(TEXT.encode()))


def tiny(config_class, tokenizer, **options):
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        **{"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": None, **options},
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(
    ("config_class", "options"),
    [
        (transformers.LlamaConfig, {"intermediate_size": 40, "max_position_embeddings": 20}),
        # has no logits_to_keep
        (transformers.CTRLConfig, {"n_positions": 20, "dff": 40}),
    ],
)
def test_models_that_are_not_ours(tokenizer, config_class, options):
    model, wrapped = tiny(config_class, tokenizer, **options), HFTokenizerAdapter(tokenizer)
    ids = [1, *tokenizer.encode(TEXT, add_special_tokens=False)]
    score = perplexity(model, wrapped, TEXT, context=16, stride=7)
    assert score.total_loss == pytest.approx(known_recipe(model, ids, 17, 7), rel=1e-6)
    # the first end, where there is no beginning
    model = tiny(config_class, tokenizer, bos_token_id=None, **options)
    score = perplexity(model, wrapped, TEXT, context=16, stride=7)
    assert score.total_loss == pytest.approx(known_recipe(model, [2, *ids[1:]], 17, 7), rel=1e-6)


def test_a_model_without_a_bound_needs_a_context(tokenizer):
    config = {"state_size": 4, "intermediate_size": 48, "time_step_rank": 2, "expand": 2}
    model, wrapped = tiny(transformers.MambaConfig, tokenizer, **config), HFTokenizerAdapter(
        tokenizer
    )
    with pytest.raises(ValueError, match="does not say how long its context is: give context"):
        perplexity(model, wrapped, TEXT)
    texts = [TEXT, "мат"]
    # a recurrence that read padding would differ
    assert_equal(
        perplexity(model, wrapped, texts, context=200, batch_size=2),
        perplexity(model, wrapped, texts, context=200, batch_size=1),
    )


def test_logits_are_computed_from_the_first_that_is_scored(make_model, tokenizer):
    adapter = HFAdapter.from_llm_model(make_model("gpt2", vocab_size=len(tokenizer)))
    lengths = []
    adapter.lm_head.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    perplexity(adapter, HFTokenizerAdapter(tokenizer), TEXT, context=12, stride=3, batch_size=1)
    assert lengths[0] == 12
    assert set(lengths[1:-1]) == {3}


def test_nothing_is_said_and_the_model_comes_back_as_it_was(make_model, tokenizer, caplog, capsys):
    adapter = HFAdapter.from_llm_model(
        make_model("gpt2", vocab_size=len(tokenizer), dropout=0.3, pad_token_id=2)
    )
    wrapped = HFTokenizerAdapter(tokenizer, model_max_length=8)
    expected = perplexity(adapter, wrapped, TEXT)
    adapter.train()
    adapter.model.decoder.blocks[1].eval()
    modes = [part.training for part in adapter.modules()]
    with caplog.at_level(logging.WARNING):
        transformers.logging.enable_propagation()
        try:
            assert perplexity(adapter, wrapped, [TEXT, "мат"]).num_targets > expected.num_targets
            assert perplexity(adapter, wrapped, TEXT) == expected
        finally:
            transformers.logging.disable_propagation()
    assert [part.training for part in adapter.modules()] == modes
    assert not caplog.records
    assert capsys.readouterr().err == ""


def word_tokenizer(**roles):
    """Words in lower case, without accents: none of the text's bytes are those of its tokens."""
    names = ["[UNK]", "[EOS]", "кошка", "и", "elan", "\u00e9"]
    backend = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **roles)


def test_bytes_are_those_of_the_text_whatever_the_tokenizer_makes_of_it(make_adapter):
    model = make_adapter("gpt2", vocab_size=6)
    text = "  Élan   И\u0306  КОШКА, совсем незнакомое слово  "
    score = perplexity(model, word_tokenizer(eos_token="[EOS]"), text)
    assert (score.num_targets, score.num_bytes) == (7, len(text.encode()))
    # the first word and the spaces before it
    score = perplexity(model, word_tokenizer(), text)
    assert (score.num_targets, score.num_bytes) == (6, len(text.encode()) - len("  Élan".encode()))


def test_a_tokenizer_of_ones_own(make_model, endless):
    """On transformers' Python backend, which knows no offsets."""

    class Own(BPETokenizer):
        def encode(self, *arguments, **options):
            return super().encode(*arguments, **options)

    own = Own()
    own.train(TEXTS, 300, show_progress=False)
    model, wrapped = make_model("gpt2", vocab_size=len(own)), HFTokenizerAdapter(own)
    assert not wrapped.is_fast
    expected = own_perplexity(model, endless, TEXT)
    assert_equal(perplexity(HFAdapter.from_llm_model(model), wrapped, TEXT), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BertForMaskedLM", {}),
        ("BertModel", {}),
        ("T5ForConditionalGeneration", {"d_kv": 4, "num_heads": 2, "d_ff": 8}),
    ],
)
def test_models_that_predict_no_next_token(tokenizer, name, options):
    model_class = getattr(transformers, name)
    config = model_class.config_class(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        **options,
    )
    with pytest.raises(ValueError, match=f"{name} is no causal language model"):
        perplexity(model_class(config), HFTokenizerAdapter(tokenizer), TEXT)


def test_what_is_not_of_transformers(make_model, make_adapter, tokenizer):
    wrapped = HFTokenizerAdapter(tokenizer)
    with pytest.raises(TypeError, match="expected a model of transformers, not GPT2"):
        perplexity(make_model("gpt2"), wrapped, TEXT)
    with pytest.raises(TypeError, match="expected a tokenizer of transformers, not BPETokenizer"):
        perplexity(make_adapter("gpt2"), tokenizer, TEXT)
    with pytest.raises(ValueError, match=f"has {len(tokenizer)} tokens and the model 67"):
        hf_text_model(make_adapter("gpt2"), wrapped)
