"""Perplexity against the definition, token by token, and against the trainer's validation."""

import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data import shard_texts
from llm.evaluation import TextScore, evaluate_text, perplexity, text_model
from llm.evaluation.perplexity import windows
from llm.tokenizers import BPETokenizer
from llm.training import TextDataset, validate


@pytest.fixture(scope="module")
def endless():
    """A tokenizer without <bos> and <eos>."""
    tokenizer = BPETokenizer()
    tokenizer.train(["the cat sat on the mat", "кошка на окне"], 280, show_progress=False)
    return tokenizer


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@torch.no_grad()
def by_definition(model, ids, context, stride):
    """Nats of ids[1:], each forward for one token: what it may see is worked out by hand."""
    total = 0.0
    for target in range(1, len(ids)):
        # the window is the first that reaches the target
        start = max(0, math.ceil((target - context) / stride)) * stride
        logits = model(torch.tensor([ids[start:target]]))[0, -1].double()
        total -= logits.log_softmax(-1)[ids[target]].item()
    return total


@pytest.mark.parametrize(("context", "stride"), [(12, 12), (12, 6), (12, 1), (7, 3), (1, 1)])
def test_every_token_is_predicted_once_from_the_window_that_reaches_it(
    model, tokenizer, text, context, stride
):
    ids = [tokenizer.eos_token_id, *ids_of(tokenizer, text)]
    score = perplexity(model, tokenizer, text, context=context, stride=stride)
    assert score.num_targets == len(ids) - 1
    assert score.num_bytes == len(text.encode())
    assert score.total_loss == pytest.approx(by_definition(model, ids, context, stride), rel=1e-6)


def test_a_stride_of_the_context_is_the_trainers_loop_over_blocks(model, tokenizer, text):
    ids = [tokenizer.eos_token_id, *ids_of(tokenizer, text)]
    dataset = TextDataset(ids, block_size=12, stride=11)
    expected = validate(model, dataset, batch_size=3)
    score = perplexity(model, tokenizer, text, context=11, stride=11)
    assert score.num_targets == expected.num_targets
    assert score.total_loss == pytest.approx(expected.total_loss, rel=1e-6)


def test_half_the_whole_context_by_default(model, tokenizer, text):
    longest = model.config.max_position_embeddings
    explicit = perplexity(model, tokenizer, text, context=longest, stride=longest // 2)
    assert perplexity(model, tokenizer, text) == explicit
    assert explicit != perplexity(model, tokenizer, text, stride=longest)


@given(st.integers(1, 9), st.data())
def test_windows_make_each_id_a_target_once_with_its_context(context, data):
    stride = data.draw(st.integers(1, context))
    parts = data.draw(st.lists(st.integers(0, 12), max_size=6))
    ends = np.cumsum([0, *parts])
    ids = np.arange(ends[-1])
    targets = []
    rows = list(windows((ids[a:b] for a, b in pairwise(ends)), context, stride))
    for row in rows:
        assert 2 <= len(row.ids) <= context + 1
        assert (np.diff(row.ids) == 1).all()
        for target in row.ids[len(row.ids) - row.num_targets :]:
            before = target - row.ids[0]
            assert before == target or before >= context - stride + 1
            targets.append(target)
    assert targets == ids[1:].tolist()
    # no window that another makes needless
    assert len(rows) == (1 + max(0, math.ceil((len(ids) - 1 - context) / stride)) if targets else 0)


@pytest.mark.parametrize("stride", [1, 5, 12])
def test_a_uniform_model_needs_exactly_log_v(make_model, tokenizer, text, stride):
    model = make_model("gpt2", vocab_size=311)
    torch.nn.init.zeros_(model.lm_head.weight)
    score = perplexity(model, tokenizer, text, context=12, stride=stride)
    assert score.total_loss == pytest.approx(score.num_targets * math.log(311), rel=1e-15)
    assert score.loss == pytest.approx(math.log(311), rel=1e-15)
    assert score.perplexity == pytest.approx(311, rel=1e-13)
    nats = len(ids_of(tokenizer, text)) * math.log(311)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()))


@pytest.mark.parametrize("stride", [4, 12])
def test_the_batch_changes_nothing(model, tokenizer, text, stride):
    texts = [text, "", "мат", text[:50]]
    scores = [
        perplexity(model, tokenizer, texts, context=12, stride=stride, batch_size=size)
        for size in (1, 2, 3, 8, 1000)
    ]
    for score in scores[1:]:
        assert score.total_loss == pytest.approx(scores[0].total_loss, rel=1e-6)
        assert (score.num_targets, score.num_bytes) == (scores[0].num_targets, scores[0].num_bytes)


def test_documents_are_read_each_from_its_start(model, tokenizer, text):
    texts = [text, "", "мат", text[:50]]
    apart = [perplexity(model, tokenizer, one, context=12) for one in texts if one]
    together = perplexity(model, tokenizer, iter(texts), context=12)
    assert together.total_loss == pytest.approx(sum(s.total_loss for s in apart), rel=1e-6)
    assert together.num_targets == sum(s.num_targets for s in apart)
    assert together.num_bytes == sum(s.num_bytes for s in apart)
    joined = perplexity(model, tokenizer, "".join(texts), context=12)
    assert together.total_loss != pytest.approx(joined.total_loss, rel=1e-3)


def test_without_anything_to_begin_after_the_first_token_does_not_count(make_model, endless, text):
    model = make_model("gpt2", vocab_size=len(endless))
    for document in (text, text[::-1], "щи и мат", "the mat"):
        ids = ids_of(endless, document)
        score = perplexity(model, endless, document, context=12, stride=5)
        assert score.num_targets == len(ids) - 1
        assert score.num_bytes == len(document.encode()) - len(endless.decode_bytes(ids[:1]))
        assert score.total_loss == pytest.approx(by_definition(model, ids, 12, 5), rel=1e-6)
    with pytest.raises(ValueError, match="no text to evaluate"):
        perplexity(model, endless, ["", "a", ""])


def test_the_models_bos_comes_before_the_tokenizers_eos(make_model, tokenizer, text):
    model = make_model("gpt2", vocab_size=len(tokenizer), bos_token_id=7, eos_token_id=8)
    ids = ids_of(tokenizer, text)
    score = perplexity(model, tokenizer, text, context=12, stride=12)
    assert score.total_loss == pytest.approx(by_definition(model, [7, *ids], 12, 12), rel=1e-6)
    model = make_model("gpt2", vocab_size=len(tokenizer), eos_token_id=8)
    score = perplexity(model, tokenizer, text, context=12, stride=12)
    assert score.total_loss == pytest.approx(by_definition(model, [8, *ids], 12, 12), rel=1e-6)


def test_special_tokens_in_a_text_are_text(model, tokenizer):
    score = perplexity(model, tokenizer, "кот<eos>кот")
    assert score.num_targets == len(ids_of(tokenizer, "кот<eos>кот"))
    assert tokenizer.eos_token_id not in ids_of(tokenizer, "кот<eos>кот")


def test_bytes_of_the_text_and_not_of_its_normal_form(make_model, tokenizer, endless, tmp_path):
    """The same text composed and decomposed: to the tokenizer one, to the user two."""
    for plain in (tokenizer, endless):
        path = tmp_path / "tokenizer.json"
        path.write_text(
            plain.to_json().replace('"normalizer": null', '"normalizer": {"type": "NFC"}'), "utf-8"
        )
        normalizing = BPETokenizer.load(path)
        composed, decomposed = "й это й", "и\u0306 это и\u0306"
        assert ids_of(normalizing, composed) == ids_of(normalizing, decomposed)
        model = make_model("gpt2", vocab_size=len(normalizing))
        scores = [perplexity(model, normalizing, text) for text in (composed, decomposed)]
        assert scores[0].total_loss == scores[1].total_loss
        first = normalizing.decode_bytes(ids_of(normalizing, composed)[:1])
        unscored = (0, 0) if plain is tokenizer else ((2, 4) if len(first) == 2 else (1, 1))
        assert scores[0].num_bytes == len(composed.encode()) - unscored[0]
        assert scores[1].num_bytes == len(decomposed.encode()) - unscored[1]


def test_a_file_is_its_text_in_pieces(model, tokenizer, text, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", 60)
    monkeypatch.setattr(shard_texts, "CUT_WINDOW", 60)
    path = tmp_path / "проза.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    pieces = []
    encode = type(tokenizer).encode_numpy

    def recording(self, piece, *arguments):
        pieces.append(piece)
        return encode(self, piece, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "encode_numpy", recording)
        of_file = perplexity(model, tokenizer, path, context=12)
    assert len(pieces) > 3
    assert "".join(pieces) == text
    monkeypatch.undo()
    of_text = perplexity(model, tokenizer, text, context=12)
    assert (of_file.num_targets, of_file.num_bytes) == (of_text.num_targets, of_text.num_bytes)
    assert of_file.total_loss == pytest.approx(of_text.total_loss, rel=1e-6)
    assert perplexity(model, tokenizer, [path, text], context=12).num_bytes == 2 * of_text.num_bytes


def test_memory_does_not_grow_with_the_file(make_model, tokenizer, text, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", 4000)
    model = make_model("gpt2", vocab_size=len(tokenizer), num_layers=1)
    path = tmp_path / "text.txt"
    peaks = []
    perplexity(model, tokenizer, text, context=16, stride=16)
    for times in (100, 500):
        path.write_text(text * times, "utf-8")
        tracemalloc.start()
        score = perplexity(model, tokenizer, path, context=16, stride=16, batch_size=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert score.num_bytes == times * len(text.encode())
    # of 108 kB more
    assert peaks[1] < peaks[0] + 20_000


def test_the_model_comes_back_as_it_was_and_no_dropout_is_drawn(model, tokenizer, text):
    expected = perplexity(model, tokenizer, text)
    model.train()
    model.decoder.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    assert perplexity(model, tokenizer, text) == expected
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="no text"):
        perplexity(model, tokenizer, "")
    assert [part.training for part in model.modules()] == modes


def test_logits_are_computed_only_where_they_are_scored(make_model, tokenizer, text):
    model = make_model("gpt2", vocab_size=len(tokenizer))
    rows = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    score = perplexity(model, tokenizer, text, context=12, stride=3, batch_size=4)
    assert sum(rows) == score.num_targets


def test_a_bar_counts_the_tokens_if_it_is_asked_for(model, tokenizer, text, capsys):
    perplexity(model, tokenizer, text)
    assert capsys.readouterr().err == ""
    score = perplexity(model, tokenizer, text, progress=True)
    assert f"{score.num_targets}token" in capsys.readouterr().err.replace(".00", "")


def test_the_score_as_a_dictionary():
    score = TextScore(total_loss=math.log(4) * 10, num_targets=10, num_bytes=40)
    assert score.to_dict() == {
        "total_loss": math.log(4) * 10,
        "num_targets": 10,
        "num_bytes": 40,
        "loss": pytest.approx(math.log(4)),
        "perplexity": pytest.approx(4),
        "bits_per_byte": pytest.approx(0.5),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context=0 must be a whole number of at least 1 and at most 18"),
        ({"context": 19}, "context=19 must .* at most 18"),
        ({"context": 2.0}, "context=2.0 must"),
        ({"stride": 0}, "stride=0 must be a whole number of at least 1 and at most 18"),
        ({"context": 9, "stride": 10}, "stride=10 must .* at most 9"),
        ({"batch_size": 0}, "batch_size=0 must"),
    ],
)
def test_arguments_out_of_range(make_model, tokenizer, text, options, message):
    model = make_model("gpt2", vocab_size=len(tokenizer))
    with pytest.raises(ValueError, match=message):
        perplexity(model, tokenizer, text, **options)


@pytest.mark.parametrize("nothing", ["", [], ["", ""]])
def test_nothing_to_score(model, tokenizer, nothing):
    with pytest.raises(ValueError, match="no text to evaluate"):
        perplexity(model, tokenizer, nothing)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, "text must be a str, a Path or several, not int"),
        (b"text", "document 0 must be a str or a Path, not int"),
        (["text", b"text"], "document 1 must be a str or a Path, not bytes"),
    ],
)
def test_what_is_no_text(model, tokenizer, wrong, message):
    with pytest.raises(TypeError, match=message):
        perplexity(model, tokenizer, wrong)


def test_half_a_character_has_no_bytes_to_count(model, tokenizer):
    with pytest.raises(ValueError, match=r"'\\ud83d', half of a character"):
        perplexity(model, tokenizer, "кот \ud83d")


def test_files_that_are_no_text_say_where(model, tokenizer, tmp_path):
    path = tmp_path / "cp1251.txt"
    path.write_bytes("кот и ".encode() + "пёс".encode("cp1251"))
    with pytest.raises(ValueError, match=r"cp1251.txt is not UTF-8 text: byte 10 is 0xef"):
        perplexity(model, tokenizer, path)
    with pytest.raises(ValueError, match=r"missing.txt is not a regular file"):
        perplexity(model, tokenizer, tmp_path / "missing.txt")


def test_another_models_tokenizer(make_model, tokenizer, text):
    model = make_model("gpt2", vocab_size=len(tokenizer) - 1)
    with pytest.raises(ValueError, match=f"tokenizer has {len(tokenizer)} tokens and the model"):
        perplexity(model, tokenizer, text)


def test_a_prefix_that_is_no_id(make_model, tokenizer, text):
    model = make_model("gpt2", vocab_size=len(tokenizer))
    wrapped = text_model(model, tokenizer, prefix_token_id=len(tokenizer))
    with pytest.raises(ValueError, match=f"prefix_token_id={len(tokenizer)} must"):
        evaluate_text(wrapped, [text], show_progress=False)
