"""The promises of BPETokenizer: round trips, files, equality, errors."""

import codecs
import copy
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.core import files
from llm.tokenizers import BaseTokenizer, BPETokenizer

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю."


def train(texts=(RUSSIAN,), vocab_size=270, special_tokens=SPECIALS, **options):
    tokenizer = BPETokenizer()
    tokenizer.train(texts, vocab_size, special_tokens, show_progress=False, **options)
    return tokenizer


# round trip


@given(data=st.data())
def test_any_text_round_trips_exactly(data, any_text, tokenizer):
    text = data.draw(any_text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == text


def test_every_code_point_round_trips(tokenizer):
    text = "".join(chr(code) for code in range(0x110000) if code >> 11 != 0x1B)
    assert tokenizer.decode(tokenizer.encode(text[:200_000])) == text[:200_000]
    sample = text[200_000::50]
    assert tokenizer.decode(tokenizer.encode(sample)) == sample


def test_the_corpus_is_shorter_in_tokens_than_in_bytes(tokenizer, corpus):
    english, russian = (tokenizer.encode(text) for text in corpus[:2])
    assert tokenizer.decode_batch([english, russian]) == corpus[:2]
    assert len(english) < len(corpus[0].encode()) / 2
    assert len(russian) < len(corpus[1].encode())


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("a\ud800", "a\ufffd"),
        ("\udc00ё", "\ufffdё"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d<eos>\ude00", "\ufffd<eos>\ufffd"),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character(tokenizer, text, decoded):
    for allowed_special in ((), "all"):
        ids = tokenizer.encode(text, allowed_special=allowed_special)
        assert tokenizer.decode(ids) == decoded
        assert ids == tokenizer.encode(decoded, allowed_special=allowed_special)


def test_surrogates_in_training_count_as_what_they_become():
    with_surrogates = train(["\ud83d\ude00\ud800 ёж"] * 3)
    assert with_surrogates == train(["😀\ufffd ёж"] * 3)


def test_batches_are_their_texts_one_by_one(tokenizer, corpus):
    batch = tokenizer.encode_batch(corpus, allowed_special="all")
    assert batch == [tokenizer.encode(text, allowed_special="all") for text in corpus]
    assert tokenizer.decode_batch(batch) == corpus


# decoding


@given(data=st.data())
def test_decoding_any_ids_is_python_utf8_decoding_of_their_bytes(data, tokenizer):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    joined = b"".join(tokenizer.decode_bytes([token_id]) for token_id in ids)
    assert tokenizer.decode_bytes(ids) == joined
    assert tokenizer.decode(ids) == joined.decode("utf-8", "replace")
    assert tokenizer.decode(ids, errors="ignore") == joined.decode("utf-8", "ignore")


def test_text_can_be_streamed_token_by_token(tokenizer, corpus):
    decoder = codecs.getincrementaldecoder("utf-8")()
    ids = tokenizer.encode(corpus[2])
    parts = [decoder.decode(tokenizer.decode_bytes([token_id])) for token_id in ids]
    assert "".join(parts) == corpus[2]


def test_ids_may_be_a_list_an_array_or_a_tensor(tokenizer):
    ids = tokenizer.encode(RUSSIAN)
    for form in (tuple(ids), iter(ids), np.array(ids), list(np.array(ids)), torch.tensor(ids)):
        assert tokenizer.decode(form) == RUSSIAN
    assert tokenizer.decode([]) == tokenizer.decode(np.array([], dtype=np.int64)) == ""


def test_bad_ids_are_errors(tokenizer):
    for token_id in (-1, 1000):
        with pytest.raises(ValueError, match=rf"id {token_id} is not in \[0, 1000\)"):
            tokenizer.decode([5, token_id, 6])
    for ids in ([1.5], "12", [[1, 2]], torch.tensor([[1, 2]]), 3, None):
        with pytest.raises(TypeError, match="integers in one dimension"):
            tokenizer.decode(ids)
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([tokenizer.token_to_id("Ñ")], errors="strict")


# vocabulary


def test_vocabulary_and_ids_are_consistent(tokenizer):
    vocab = tokenizer.get_vocab()
    assert len(tokenizer) == tokenizer.vocab_size == len(vocab) == 1000
    assert list(vocab.values()) == list(range(1000))
    for token, token_id in vocab.items():
        assert tokenizer.token_to_id(token) == token_id
        assert tokenizer.id_to_token(token_id) == token
    assert list(vocab)[:4] == SPECIALS
    assert tokenizer.decode([vocab["Ġthe"]]) == " the"
    assert tokenizer.token_to_id(" the") is None
    assert tokenizer.id_to_token(1000) is None
    assert tokenizer.id_to_token(-1) is None


def test_changing_what_get_vocab_returns_changes_nothing(tokenizer):
    tokenizer.get_vocab().clear()
    assert len(tokenizer.get_vocab()) == 1000


# training


def test_texts_may_be_a_generator():
    assert train(text for text in ["a b", RUSSIAN]) == train(["a b", RUSSIAN])


def test_a_vocabulary_without_room_for_bytes_and_specials_is_an_error():
    with pytest.raises(ValueError, match=r"vocab_size=259 is smaller than 256 bytes \+ 4 special"):
        train(vocab_size=259)
    assert train(vocab_size=260).vocab_size == 260


@pytest.mark.parametrize("texts", [[], [""], iter(())])
def test_an_empty_corpus_is_an_error(texts):
    with pytest.raises(ValueError, match="the corpus is empty"):
        train(texts)


def test_a_small_corpus_gives_a_smaller_vocabulary_and_a_warning():
    with pytest.warns(UserWarning, match="vocab_size=5000 was asked for, the vocabulary has 260"):
        tokenizer = train(["да да да"], vocab_size=5000, special_tokens=[])
    assert tokenizer.vocab_size == 260
    assert tokenizer.decode(tokenizer.encode("да нет")) == "да нет"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([b"bytes"], r"texts\[0\] has to be a str, not bytes"),
        ([RUSSIAN, None], r"texts\[1\] has to be a str, not NoneType"),
        (RUSSIAN, "texts is one string"),
        (b"bytes", "texts is one string"),
    ],
)
def test_texts_that_are_no_strings_are_errors(texts, message):
    with pytest.raises(TypeError, match=message):
        train(texts)


def test_text_to_encode_has_to_be_a_string(tokenizer):
    for text in (b"bytes", None, ["a"]):
        with pytest.raises(TypeError, match=f"not {type(text).__name__}"):
            tokenizer.encode(text)


def test_training_again_replaces_and_failing_keeps():
    tokenizer = train()
    before = copy.deepcopy(tokenizer)
    with pytest.raises(ValueError, match="corpus is empty"):
        tokenizer.train([], 300, show_progress=False)
    assert tokenizer == before
    tokenizer.train(["other words, other words"], 265, show_progress=False)
    assert tokenizer != before
    assert tokenizer.special_tokens == []
    assert tokenizer.vocab_size == 265


def test_progress_can_be_silenced(capfd):
    train()
    assert capfd.readouterr() == ("", "")
    BPETokenizer().train([RUSSIAN], 270)
    out, shown = capfd.readouterr()
    assert out == ""
    assert "merges" in shown


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.encode("x"),
        lambda t: t.decode([0]),
        lambda t: t.save("never-written"),
        lambda t: t.get_vocab(),
        lambda t: t.vocab_size,
        lambda t: t.pad_token_id,
        lambda t: t.token_to_id("x"),
        lambda t: t.fingerprint(),
    ],
)
def test_an_untrained_tokenizer_is_a_clear_error(use):
    with pytest.raises(ValueError, match="train it, or load one"):
        use(BPETokenizer())


# saving, loading, equality


@pytest.mark.parametrize("name", ["tokenizer.json", "any name.json", "folder", "deep/er/folder"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_bos": True, "add_eos": True},
        {"special_tokens": []},
        {"special_tokens": ["<|endoftext|>", "<начало>"]},
        {"special_tokens": ["<|endoftext|>", "<z>"], "pad_token": "<z>", "eos_token": "<z>"},
    ],
)
def test_a_loaded_tokenizer_is_equal_in_every_respect(tmp_path, name, options):
    tokenizer = train(**options)
    tokenizer.save(tmp_path / name)
    loaded = BPETokenizer.load(str(tmp_path / name))
    assert loaded == tokenizer
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.to_json() == tokenizer.to_json()
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens == tokenizer.special_tokens
    for role in ("pad", "unk", "bos", "eos"):
        assert loaded.special_token(role) == tokenizer.special_token(role)
    text = RUSSIAN + "<eos><|endoftext|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.encode(text, allowed_special="all") == tokenizer.encode(
        text, allowed_special="all"
    )


def test_tokenizers_that_differ_are_unequal():
    different = [
        BPETokenizer(),
        train(),
        train(vocab_size=269),
        train(["other"] * 9, vocab_size=264),
        train(special_tokens=SPECIALS[:3]),
        train(special_tokens=[*SPECIALS[:3], "<end>"]),
        train(add_bos=True),
        train(add_eos=True),
        train(pad_token="<eos>"),
    ]
    for index, one in enumerate(different):
        for other in different[index + 1 :]:
            assert one != other
            if index:
                assert one.fingerprint() != other.fingerprint()
    assert train() == train()
    assert train().fingerprint() == train().fingerprint()
    assert train() != "a tokenizer"


def test_the_fingerprint_is_stable_across_processes(tmp_path):
    train().save(tmp_path / "t")
    code = "import sys; from llm.tokenizers import BPETokenizer as T; " + (
        "print(T.load(sys.argv[1]).fingerprint())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == train().fingerprint()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_tokenizer_can_be_pickled_and_copied(clone, tokenizer):
    for original in (tokenizer, BPETokenizer()):
        assert clone(original) == original
    assert clone(tokenizer).encode(RUSSIAN) == tokenizer.encode(RUSSIAN)


def test_repr_names_size_and_special_tokens(tokenizer):
    assert repr(tokenizer) == (
        "BPETokenizer(vocab_size=1000, special_tokens=['<pad>', '<unk>', '<bos>', '<eos>'])"
    )
    assert repr(BPETokenizer()) == "BPETokenizer(untrained)"


def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    train().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def crash(*args):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        train(vocab_size=268).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "no folder"):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            BPETokenizer.load(path)


def test_parts_are_read_from_the_files_beside(tmp_path):
    train().save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"pad_token": "<eos>", "eos_token": {"content": "<unk>"}}))
    loaded = BPETokenizer.load(tmp_path)
    assert (loaded.pad_token, loaded.eos_token, loaded.bos_token) == ("<eos>", "<unk>", "<bos>")
    config.write_text(json.dumps({"pad_token": None, "model_max_length": 1024}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<bos>"}))
    loaded = BPETokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.pad_token, loaded.eos_token) == (None, "<bos>")
    config.write_text(json.dumps({"pad_token": "<none>"}))
    with pytest.raises(ValueError, match="pad_token='<none>' is not in the vocabulary"):
        BPETokenizer.load(tmp_path)
    for damaged in ('{"pad_token": 3}', '{"pad_token": {}}', "[]", "{"):
        config.write_text(damaged)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            BPETokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        (None, {}),
        ("gpt2", {}),
        ("openai-gpt", {"add_bos": True, "add_eos": True}),
        ("gpt2", {"special_tokens": []}),
        ("llama", {"pad_token": "<eos>"}),
        ("not-published", {"add_eos": True}),
    ],
)
def test_stock_transformers_opens_the_folder_with_equal_ids(
    tmp_path, model_type, options, corpus, hard_texts
):
    from transformers import AutoTokenizer

    tokenizer = train(corpus, vocab_size=400, **options)
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    stock = AutoTokenizer.from_pretrained(tmp_path)
    for text in [corpus[0][:2000], *corpus[1:], *hard_texts[:50], " n't . , ' s ?"]:
        ids = tokenizer.encode(text, allowed_special="all")
        assert stock(text).input_ids == ids
        assert stock.decode(ids) == tokenizer.decode(ids)
        assert stock.decode(ids, skip_special_tokens=True) == tokenizer.decode(
            ids, skip_special_tokens=True
        )
        plain = tokenizer.encode(text, add_special_tokens=False, allowed_special="all")
        assert stock(text, add_special_tokens=False).input_ids == plain
    assert len(stock) == len(tokenizer)
    for role in ("pad", "unk", "bos", "eos"):
        assert getattr(stock, f"{role}_token") == tokenizer.special_token(role)
        assert getattr(stock, f"{role}_token_id") == getattr(tokenizer, f"{role}_token_id")
    stock.save_pretrained(tmp_path / "again")
    assert BPETokenizer.load(tmp_path / "again") == tokenizer


# the package


def test_the_interface_is_abstract():
    assert issubclass(BPETokenizer, BaseTokenizer)
    with pytest.raises(TypeError, match="abstract"):
        BaseTokenizer()


def test_no_other_tokenizer_library_and_no_torch_is_imported():
    code = (
        "import sys, llm.tokenizers; "
        "print(sorted({'torch', 'tokenizers', 'transformers', 'tiktoken'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_and_encoding_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = train()
        tokenizer.encode(RUSSIAN, allowed_special="all")


def test_a_vocab_size_may_be_any_integer_and_nothing_else():
    texts = [RUSSIAN]
    tokenizer = BPETokenizer()
    tokenizer.train(texts, np.int64(300), show_progress=False)
    assert len(tokenizer) == 300
    for wrong in (300.0, float("nan"), "300", None):
        with pytest.raises(TypeError, match=r"vocab_size=.* has to be an int"):
            tokenizer.train(iter(texts), wrong, show_progress=False)


@pytest.mark.parametrize("wrong", [float("nan"), 2.0, "2", None, True])
def test_a_number_of_threads_is_an_int(tokenizer, wrong):
    with pytest.raises(TypeError, match=r"num_threads=.* has to be an int"):
        tokenizer.encode_batch(["a"], num_threads=wrong)
    with pytest.raises(TypeError, match=r"num_threads=.* has to be an int"):
        BPETokenizer().train(["a"], 300, num_threads=wrong, show_progress=False)


def test_allowed_special_tokens_may_be_an_iterator_in_a_batch(tokenizer):
    expected = tokenizer.encode_batch(["<eos>", "a<eos>"], allowed_special={"<eos>"})
    assert tokenizer.encode_batch(["<eos>", "a<eos>"], allowed_special=iter(["<eos>"])) == expected
