"""`HFTokenizerAdapter` of a tokenizer that is not BPE."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    PythonBackend,
)

from hf_proxy._python_tokenizer import HFPythonTokenizerAdapter
from hf_proxy.hf_tokenizer import HFTokenizerAdapter, register_tokenizer
from llm.tokenizers import BaseTokenizer, BPETokenizer

register_tokenizer()


class CharTokenizer(BaseTokenizer):
    """One id a character; special tokens in the text are characters."""

    def __init__(self):
        self.tokens = []
        self.add_ends = True

    def train(self, texts, vocab_size, special_tokens=(), *, show_progress=True):
        chars = sorted(set("".join(texts)))
        self.tokens = [*special_tokens, *chars][:vocab_size]

    def encode(self, text, add_special_tokens=True, allowed_special=()):
        ids = [self.tokens.index(char) if char in self.tokens else 1 for char in text]
        return [2, *ids, 3] if add_special_tokens and self.add_ends else ids

    def decode_bytes(self, ids, skip_special_tokens=False):
        kept = [token_id for token_id in ids if token_id > 3 or not skip_special_tokens]
        return "".join(self.tokens[token_id] for token_id in kept).encode()

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump([self.tokens, self.add_ends], file)

    @classmethod
    def load(cls, path):
        tokenizer = cls()
        with open(path, encoding="utf-8") as file:
            tokenizer.tokens, tokenizer.add_ends = json.load(file)
        return tokenizer

    def get_vocab(self):
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def token_to_id(self, token):
        return self.get_vocab().get(token)

    def id_to_token(self, token_id):
        return self.tokens[token_id] if 0 <= token_id < len(self.tokens) else None

    @property
    def vocab_size(self):
        return len(self.tokens)

    def special_token(self, role):
        return {"pad": "<pad>", "unk": "<unk>", "bos": "<bos>", "eos": "<eos>"}[role]

    def fingerprint(self):
        return json.dumps(self.tokens)


class FolderTokenizer(CharTokenizer):
    """Saves a folder, matches its special tokens itself, knows one without a part."""

    def encode(self, text, add_special_tokens=True, allowed_special=()):
        if allowed_special == "all" and "<sep>" in text:
            left, right = text.split("<sep>", 1)
            ids = [*super().encode(left, False), 4, *self.encode(right, False, "all")]
        else:
            ids = super().encode(text, False)
        return [2, *ids] if add_special_tokens else ids

    def save(self, path):
        path.mkdir(exist_ok=True)
        super().save(path / "chars.json")

    @classmethod
    def load(cls, path):
        return super().load(path / "chars.json")


TEXTS = ["hello, world!", "Съешь ещё", "", "q?"]
SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]


def make(tokenizer_class=CharTokenizer, specials=SPECIALS):
    tokenizer = tokenizer_class()
    tokenizer.train([*TEXTS[:3], "<sepadbounk>"], vocab_size=100, special_tokens=specials)
    return tokenizer


@pytest.fixture
def chars():
    return make()


@pytest.fixture
def hf_tokenizer(chars):
    return HFTokenizerAdapter(chars)


def test_is_an_adapter_on_the_python_backend(hf_tokenizer):
    assert isinstance(hf_tokenizer, HFTokenizerAdapter)
    assert isinstance(hf_tokenizer, PythonBackend | PreTrainedTokenizerBase)
    assert not isinstance(hf_tokenizer, PreTrainedTokenizerFast)
    assert hf_tokenizer.is_fast is False


def test_a_bpe_tokenizer_that_encodes_in_its_own_way_is_no_rust_pipeline():
    class Lower(BPETokenizer):
        def encode(self, text, add_special_tokens=True, allowed_special=()):
            return super().encode(text.lower(), add_special_tokens, allowed_special)

    tokenizer = Lower()
    tokenizer.train(["abc ABC"], vocab_size=258, show_progress=False)
    adapter = HFTokenizerAdapter(tokenizer)
    assert not adapter.is_fast
    assert adapter.encode("ABC\ud800ж") == tokenizer.encode("abc\ud800ж")
    assert adapter.decode(adapter.encode("ABC ж")) == "abc ж"


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.one_of(st.sampled_from("helo<pad>Съ"), st.characters(codec="utf-8"))))
def test_ids_and_text_are_those_of_the_tokenizer(text):
    chars = make()
    adapter = HFTokenizerAdapter(chars)
    if not any(special in text for special in SPECIALS):
        assert adapter(text).input_ids == chars.encode(text)
        assert adapter.encode(text, add_special_tokens=False) == chars.encode(text, False)
        assert adapter.convert_tokens_to_ids(adapter.tokenize(text)) == chars.encode(text, False)
    assert adapter(text, split_special_tokens=True).input_ids == chars.encode(text)
    for skip in (False, True):
        ids = chars.encode(text)
        assert adapter.decode(ids, skip_special_tokens=skip) == chars.decode(ids, skip)


def test_special_tokens_are_found_in_the_text(hf_tokenizer):
    assert hf_tokenizer.encode("h<eos>", add_special_tokens=False)[1:] == [3]
    split = HFTokenizerAdapter(make(), split_special_tokens=True)
    assert len(split.encode("<eos>", add_special_tokens=False)) == 5


def test_special_tokens_that_the_tokenizer_finds_itself():
    tokenizer = make(FolderTokenizer, [*SPECIALS, "<sep>"])
    adapter = HFTokenizerAdapter(tokenizer)
    for text in ("he<sep>o<sep>", "h<eos><sep>"):
        assert 4 in adapter.encode(text)
    assert adapter.encode("he<sep>o") == tokenizer.encode("he<sep>o", allowed_special="all")
    assert 4 not in adapter.encode("he<sep>o", split_special_tokens=True)


def test_pairs_truncation_padding_and_masks(hf_tokenizer, chars):
    ab = chars.encode("he"), chars.encode("lo!")
    assert hf_tokenizer("he", "lo!").input_ids == ab[0] + ab[1]
    assert hf_tokenizer([("he", "lo!")]).input_ids == [ab[0] + ab[1]]
    assert hf_tokenizer.num_special_tokens_to_add() == 2
    assert hf_tokenizer.num_special_tokens_to_add(pair=True) == 4
    out = hf_tokenizer("he", "lo!", return_special_tokens_mask=True)
    assert out.special_tokens_mask == [1, 0, 0, 1, 1, 0, 0, 0, 1]
    out = hf_tokenizer("hello", truncation=True, max_length=4)
    assert out.input_ids == chars.encode("he")
    out = hf_tokenizer(["hello", "he"], padding=True, padding_side="left", return_tensors="pt")
    assert out.attention_mask.tolist() == [[1] * 7, [0] * 3 + [1] * 4]
    assert out.input_ids[1].tolist() == [0, 0, 0, *chars.encode("he")]
    words = hf_tokenizer(["he", "lo!"], is_split_into_words=True, add_special_tokens=False)
    assert words.input_ids == chars.encode("helo!", False)
    rows = [{"input_ids": [5]}, {"input_ids": np.array([5, 6])}, {"input_ids": torch.tensor([7])}]
    assert hf_tokenizer.pad(rows)["input_ids"] == [[5, 0], [5, 6], [7, 0]]
    batch = DataCollatorForLanguageModeling(hf_tokenizer, mlm=False)(
        [hf_tokenizer("hello"), hf_tokenizer("")]
    )
    assert batch["labels"][1].tolist() == [2, 3, *([-100] * 5)]


def test_offsets_are_refused(hf_tokenizer):
    with pytest.raises(NotImplementedError, match="no offsets"):
        hf_tokenizer("he", return_offsets_mapping=True)


def test_vocabulary_and_added_tokens(hf_tokenizer, chars):
    size = chars.vocab_size
    assert len(hf_tokenizer) == hf_tokenizer.vocab_size == size
    assert hf_tokenizer.get_vocab() == chars.get_vocab()
    assert hf_tokenizer.all_special_ids == [2, 3, 1, 0]
    assert hf_tokenizer.convert_tokens_to_ids(["h", "no such"]) == [chars.token_to_id("h"), 1]
    assert hf_tokenizer.convert_ids_to_tokens([0, 5]) == ["<pad>", chars.tokens[5]]
    assert hf_tokenizer.add_tokens(["<tool>", AddedToken("☃", lstrip=True)]) == 2
    assert hf_tokenizer.add_special_tokens({"extra_special_tokens": ["<end>"]}) == 1
    ids = hf_tokenizer.encode("h<tool>e  ☃<end>", add_special_tokens=False)
    h, e = chars.encode("he", False)
    assert ids == [h, size, e, size + 1, size + 2]
    assert hf_tokenizer.decode(ids) == "h<tool>e☃<end>"
    assert hf_tokenizer.decode(ids, skip_special_tokens=True) == "h<tool>e☃"
    assert hf_tokenizer.decode(torch.tensor([ids, ids])) == ["h<tool>e☃<end>"] * 2
    assert hf_tokenizer.convert_tokens_to_string(["h", "<tool>"]) == "h<tool>"
    assert (len(hf_tokenizer), hf_tokenizer.vocab_size) == (size + 3, size)
    with pytest.raises(ValueError, match=f"id {size + 3} is not in"):
        hf_tokenizer.convert_ids_to_tokens([size + 3])


def test_chat_template(hf_tokenizer, chars):
    hf_tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    messages = [{"role": "user", "content": "he"}]
    ids = hf_tokenizer.apply_chat_template(messages, return_dict=False)
    assert ids == [*chars.encode("he", False), 3]


@pytest.mark.parametrize("tokenizer_class", [CharTokenizer, FolderTokenizer])
@pytest.mark.parametrize("opener", [AutoTokenizer, HFTokenizerAdapter, HFPythonTokenizerAdapter])
def test_saving(tokenizer_class, opener, tmp_path):
    tokenizer = HFTokenizerAdapter(make(tokenizer_class), model_max_length=9)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.chat_template = "{{ messages }}"
    for _ in range(2):  # over what is there, too
        tokenizer.save_pretrained(tmp_path)
    opened = opener.from_pretrained(tmp_path, padding_side="left")
    assert type(opened) is HFPythonTokenizerAdapter
    assert (opened.model_max_length, opened.padding_side) == (9, "left")
    assert opened.chat_template == tokenizer.chat_template
    assert opened.get_vocab() == tokenizer.get_vocab()
    for text in [*TEXTS, "a<tool><eos>"]:
        assert opened(text).input_ids == tokenizer(text).input_ids


def test_a_file_cannot_choose_what_is_imported(hf_tokenizer, tmp_path):
    hf_tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    assert config["llm_tokenizer_class"] == f"{__name__}:CharTokenizer"
    module = "wsgiref.simple_server"
    assert module not in sys.modules
    for name in (f"{module}:demo_app", "json:loads", "os:system", f"{__name__}:make", None, 3):
        path.write_text(json.dumps({**config, "llm_tokenizer_class": name}), encoding="utf-8")
        with pytest.raises(ValueError, match="not imported: import it"):
            HFTokenizerAdapter.from_pretrained(tmp_path)
        given_class = HFTokenizerAdapter.from_pretrained(
            tmp_path, llm_tokenizer_class=CharTokenizer
        )
        assert given_class.encode("he") == hf_tokenizer.encode("he")
        given_class.save_pretrained(tmp_path / "again")
        assert HFTokenizerAdapter.from_pretrained(tmp_path / "again").encode("he")
    assert module not in sys.modules


def test_a_folder_without_the_tokenizer(hf_tokenizer, tmp_path):
    hf_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "llm_tokenizer").unlink()
    with pytest.raises(OSError, match="no saved BaseTokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(hf_tokenizer, duplicate):
    hf_tokenizer.add_tokens(["<tool>"])
    other = duplicate(hf_tokenizer)
    assert other("he<tool>").input_ids == hf_tokenizer("he<tool>").input_ids
    other.add_tokens(["<x>"])
    assert len(other) == len(hf_tokenizer) + 1


def test_fingerprint_does_not_depend_on_use(hf_tokenizer):
    before = Hasher.hash(hf_tokenizer)
    hf_tokenizer(["he", "l"], padding=True, truncation=True, max_length=4)
    assert Hasher.hash(hf_tokenizer) == before


def test_back(hf_tokenizer, chars):
    assert hf_tokenizer.to_llm_tokenizer() is chars
    hf_tokenizer.eos_token = "<pad>"
    with pytest.raises(ValueError, match="eos_token is '<pad>', that of CharTokenizer is '<eos>'"):
        hf_tokenizer.to_llm_tokenizer()
    hf_tokenizer.eos_token = "<eos>"
    hf_tokenizer.add_tokens(["<tool>"])
    with pytest.raises(ValueError, match=r"added tokens \['<tool>'\]"):
        hf_tokenizer.to_llm_tokenizer()


def test_what_is_added_around_a_text(chars):
    chars.add_ends = False
    adapter = HFTokenizerAdapter(chars)
    assert adapter.num_special_tokens_to_add() == 0
    assert adapter.encode("he") == chars.encode("he")


def test_a_vocabulary_with_holes_is_an_error(chars):
    chars.tokens[5] = chars.tokens[6]
    with pytest.raises(ValueError, match="does not name each id from 0 to"):
        HFTokenizerAdapter(chars)


def test_a_tokenizer_without_text_of_its_own_is_an_error():
    class Mute(CharTokenizer):
        def decode_bytes(self, ids, skip_special_tokens=False):
            return b""

    with pytest.raises(ValueError, match=r"cannot see what Mute\.encode adds"):
        HFTokenizerAdapter(make(Mute))


def test_no_tokenizer():
    with pytest.raises(TypeError, match="has to be a BaseTokenizer, not str"):
        HFPythonTokenizerAdapter("folder")
