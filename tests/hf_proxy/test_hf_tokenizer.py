"""`HFTokenizerAdapter` of a `BPETokenizer`: ids, text and transformers' whole interface."""

import copy
import json
import pickle
import pydoc_data.topics
from itertools import chain

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
)

from hf_proxy.hf_tokenizer import HFTokenizerAdapter, register_tokenizer
from llm.tokenizers import BPETokenizer

register_tokenizer()

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>", "<|im_start|>", "<é>"]
ENGLISH = "\n".join(pydoc_data.topics.topics.values())[:60_000]
RUSSIAN = (
    "Съешь же ещё этих мягких французских булок, да выпей чаю. В чащах юга жил бы цитрус? Да, но "
    "фальшивый экземпляр!\nВ 1924 году на реке стояло 35 мельниц — и ни одна не работала.\r\n"
)
TEXTS = [
    "Hello, world!",
    "",
    " ",
    "Съешь ещё  этих\tбулок",
    "x<eos><pad> y <|im_start|><é>é<unk",
    "😀👩‍👩‍👧 naïve\r\n\n   \x85 end   ",
]
SURROGATES = [
    "a\ud800b",
    "\udc80",
    "x \ud83d\ude00 y",
    "\ude00\ud83d<eos>",
    "\ud83d\ud83d\ude00\ude00 ж",
]
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role + '\n' }}{% if message.role == "
    "'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)

any_text = st.one_of(
    st.text(st.characters()),  # lone surrogates too
    st.text(st.sampled_from("ab \n'stё1й<pad>eos|é\ud83d\ude00")),
    st.lists(
        st.sampled_from(
            [" the", "Съешь", " ещё", "\n\n", "'ll", *SPECIALS, "😀", " " * 40, "\ud83d", "\ude00"]
        )
    ).map("".join),
)
many_times = settings(deadline=None, max_examples=100)


def train(**options):
    tokenizer = BPETokenizer()
    tokenizer.train(
        [ENGLISH, RUSSIAN],
        vocab_size=600,
        special_tokens=SPECIALS,
        show_progress=False,
        **options,
    )
    return tokenizer


@pytest.fixture(scope="module")
def llm_tokenizer():
    return train()


@pytest.fixture(scope="module")
def with_ends():
    return train(add_bos=True, add_eos=True)


@pytest.fixture(scope="module")
def without_parts():
    tokenizer = BPETokenizer()
    tokenizer.train([ENGLISH[:5000]], vocab_size=300, show_progress=False)
    return tokenizer


@pytest.fixture
def hf_tokenizer(llm_tokenizer):
    return HFTokenizerAdapter(llm_tokenizer)


@pytest.fixture(scope="module")
def shared(llm_tokenizer):
    """For tests that change nothing."""
    return HFTokenizerAdapter(llm_tokenizer)


@pytest.fixture(scope="module")
def shared_with_ends(with_ends):
    return HFTokenizerAdapter(with_ends)


@pytest.fixture(scope="module")
def stock(llm_tokenizer):
    """The class of transformers on the same tokenizers pipeline."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(llm_tokenizer.to_json()),
        **{f"{role}_token": llm_tokenizer.special_token(role) for role in ("pad", "bos", "eos")},
    )


class TestIds:
    @many_times
    @given(text=any_text)
    @example(text="a\ud800b\ud83d\ude00<eos>")
    def test_are_those_of_the_tokenizer(self, llm_tokenizer, shared, text):
        ids = llm_tokenizer.encode(text, allowed_special="all")
        assert shared.encode(text) == ids
        assert shared(text).input_ids == ids
        assert shared.convert_tokens_to_ids(shared.tokenize(text)) == ids

    @many_times
    @given(texts=st.lists(any_text, min_size=1, max_size=4))
    def test_are_those_of_the_tokenizer_in_batches_and_words(
        self, llm_tokenizer, shared_with_ends, with_ends, shared, texts
    ):
        whole = [with_ends.encode(text, allowed_special="all") for text in texts]
        assert shared_with_ends(texts).input_ids == whole
        bare = llm_tokenizer.encode_batch(texts, allowed_special="all")
        joined = list(chain(*bare))
        assert shared(texts, is_split_into_words=True).input_ids == joined
        assert shared([texts, texts], is_split_into_words=True).input_ids == [joined, joined]

    @many_times
    @given(text=any_text, pair=any_text.filter(bool))
    def test_of_a_pair_are_those_of_both(self, with_ends, shared_with_ends, text, pair):
        ids = with_ends.encode(text, allowed_special="all")
        ids += with_ends.encode(pair, allowed_special="all")
        assert shared_with_ends(text, pair).input_ids == ids
        assert shared_with_ends([(text, pair)]).input_ids == [ids]
        assert shared_with_ends([text], [pair]).input_ids == [ids]

    @many_times
    @given(text=any_text)
    def test_without_special_tokens_added(self, with_ends, shared_with_ends, text):
        ids = with_ends.encode(text, add_special_tokens=False, allowed_special="all")
        assert shared_with_ends.encode(text, add_special_tokens=False) == ids

    @many_times
    @given(text=any_text)
    def test_with_special_tokens_split_are_those_of_plain_encode(self, llm_tokenizer, shared, text):
        ids = llm_tokenizer.encode(text)
        assert shared(text, split_special_tokens=True).input_ids == ids
        splitting = HFTokenizerAdapter(llm_tokenizer, split_special_tokens=True)
        assert splitting.encode(text) == ids

    @pytest.mark.parametrize("text", TEXTS)
    def test_are_those_of_stock_classes(self, llm_tokenizer, shared, stock, text):
        model = json.loads(llm_tokenizer.to_json())["model"]
        gpt2 = GPT2Tokenizer(
            model["vocab"],
            list(map(tuple, model["merges"])),
            unk_token="<unk>",
            bos_token="<bos>",
            eos_token="<eos>",
            pad_token="<pad>",
            extra_special_tokens=["<|im_start|>", "<é>"],
        )
        assert shared.encode(text) == stock.encode(text) == gpt2.encode(text)

    @pytest.mark.parametrize(
        "change",
        [
            {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {
                            "type": "Split",
                            "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"},
                            "behavior": "Isolated",
                            "invert": False,
                        },
                        {**BYTE_LEVEL, "use_regex": False},
                    ],
                }
            },
            {"normalizer": {"type": "NFC"}},
        ],
        ids=["prefix space", "own pattern", "NFC"],
    )
    def test_of_another_pipeline(self, llm_tokenizer, tmp_path, change):
        document = json.loads(llm_tokenizer.to_json())
        for token in document["added_tokens"][-2:]:
            token.update(lstrip=True, rstrip=True)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({**document, **change}), encoding="utf-8")
        other = BPETokenizer.load(path)
        adapter = HFTokenizerAdapter(other)
        for text in [*TEXTS, *SURROGATES, "e\u0301 12345 a  <é>  b", "Й<|im_start|> \n"]:
            ids = other.encode(text, allowed_special="all")
            assert adapter.encode(text) == ids, text
            assert adapter.decode(ids) == other.decode(ids)
        assert adapter.to_llm_tokenizer() == other


class TestSurrogates:
    def test_stock_class_refuses_them(self, stock):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            stock("a\ud800b")

    @pytest.mark.parametrize("text", SURROGATES)
    def test_offsets_are_those_in_the_given_text(self, shared, text):
        encoding = shared(text, return_offsets_mapping=True, add_special_tokens=False)
        covered = set()
        for index, (start, end) in enumerate(encoding.offset_mapping):
            assert encoding.token_to_chars(index) in (None, (start, end))
            covered.update(range(start, end))
            for place in range(start, end):
                token = encoding.char_to_token(place)
                assert encoding.offset_mapping[token] == (start, end)
                word = encoding.char_to_word(place)
                assert word == encoding.word_ids()[token]
                if word is not None:
                    first, last = encoding.word_to_chars(word)
                    assert first <= place < last
        assert covered == set(range(len(text)))

    def test_offsets_of_batches_pairs_words_and_tensors(self, shared):
        text, pair = "\ud83d\ude00a", "bc \ud83d\ude00d"
        options = {"return_offsets_mapping": True}
        single = shared(text, **options).offset_mapping
        second = shared(pair, **options).offset_mapping
        assert second[-1] == (5, 6)
        assert shared(text, pair, **options).offset_mapping == single + second
        assert shared([text, pair], **options).offset_mapping == [single, second]
        assert shared([(text, pair)], **options).offset_mapping == [single + second]
        words = shared([pair, text], is_split_into_words=True, **options)
        assert words.offset_mapping == second + single
        words = shared([[pair, text], []], is_split_into_words=True, **options)
        assert words.offset_mapping == [second + single, []]
        tensor = shared(text, return_tensors="pt", **options).offset_mapping
        assert tensor.tolist() == [list(map(list, single))]
        parts = shared(
            [pair, text], truncation=True, max_length=3, return_overflowing_tokens=True, **options
        )
        joined = {0: [], 1: []}
        for sample, offsets in zip(
            parts.overflow_to_sample_mapping, parts.offset_mapping, strict=True
        ):
            joined[sample] += offsets
        assert joined == {0: second, 1: single}

    def test_chat_templates(self, llm_tokenizer, hf_tokenizer):
        hf_tokenizer.chat_template = CHATML
        messages = [
            {"role": "user", "content": "\ud83d\ude00\ud800"},
            {"role": "assistant", "content": "ok"},
        ]
        out = hf_tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
        text = "<|im_start|>user\n\ud83d\ude00\ud800<eos>\n<|im_start|>assistant\nok<eos>\n"
        assert out["input_ids"] == llm_tokenizer.encode(text, allowed_special="all")
        answer = [
            token_id
            for token_id, mask in zip(out["input_ids"], out["assistant_masks"], strict=True)
            if mask
        ]
        assert llm_tokenizer.decode(answer) == "ok<eos>"

    def test_encodings_with_them_can_be_pickled_and_copied(self, shared):
        encoding = shared("\ud83d\ude00ab", return_offsets_mapping=True)
        for other in (copy.deepcopy(encoding), pickle.loads(pickle.dumps(encoding))):
            assert other.char_to_token(3) == encoding.char_to_token(3) is not None
            assert len(other.encodings[0]) == len(encoding.input_ids)


class TestDecode:
    @many_times
    @given(data=st.data())
    def test_is_that_of_the_tokenizer(self, llm_tokenizer, shared, data):
        ids = data.draw(st.lists(st.integers(0, llm_tokenizer.vocab_size - 1)))
        for skip in (False, True):
            text = llm_tokenizer.decode(ids, skip_special_tokens=skip)
            assert shared.decode(ids, skip_special_tokens=skip) == text
            tokens = shared.convert_ids_to_tokens(ids, skip_special_tokens=skip)
            assert shared.convert_tokens_to_string(tokens) == text

    @many_times
    @given(text=st.text())
    def test_gives_the_text_back(self, shared, text):
        assert shared.decode(shared.encode(text)) == text

    def test_of_special_tokens_that_stock_takes_for_bytes(self, shared, stock):
        ids = [shared.convert_tokens_to_ids("<é>")]
        assert stock.decode(ids) == "<\ufffd>"
        assert shared.decode(ids) == "<é>"
        assert shared.decode(ids, skip_special_tokens=True) == ""

    def test_of_an_added_token_that_stock_takes_for_bytes(self, hf_tokenizer):
        hf_tokenizer.add_tokens(["Ünï"])
        assert hf_tokenizer.decode(hf_tokenizer.encode("a Ünï b")) == "a Ünï b"
        assert pickle.loads(pickle.dumps(hf_tokenizer)).decode(len(hf_tokenizer) - 1) == "Ünï"

    def test_of_spaces_before_punctuation_leaves_them(self, hf_tokenizer):
        text = "a , b . do n't !"
        assert hf_tokenizer.decode(hf_tokenizer.encode(text)) == text
        assert hf_tokenizer.clean_up_tokenization_spaces is False

    @pytest.mark.parametrize(
        "make",
        [
            list,
            tuple,
            np.array,
            torch.tensor,
            lambda ids: list(np.array(ids)),
            lambda ids: list(torch.tensor(ids)),
            lambda ids: np.array(ids, dtype=np.uint16),
        ],
    )
    def test_of_any_sequence(self, shared, make):
        ids = shared.encode("Hello, ёж!")
        assert shared.decode(make(ids)) == "Hello, ёж!"
        assert shared.batch_decode([make(ids), list(ids), make(ids[:2])]) == [
            "Hello, ёж!",
            "Hello, ёж!",
            shared.decode(ids[:2]),
        ]

    def test_of_one_id_an_empty_list_and_a_matrix(self, shared):
        token_id = shared.convert_tokens_to_ids("H")
        for one in (token_id, np.int64(token_id), torch.tensor(token_id)):
            assert shared.decode(one) == "H"
        assert shared.decode([]) == shared.decode(torch.tensor([], dtype=torch.long)) == ""
        matrix = torch.tensor([[token_id, 0], [token_id, token_id]])
        assert shared.decode(matrix) == shared.batch_decode(matrix.numpy()) == ["H<pad>", "HH"]
        assert shared.decode(shared("Hi")) == "Hi"


class TestCall:
    @pytest.mark.parametrize(
        "options",
        [
            {"padding": True},
            {"padding": True, "padding_side": "left"},
            {"padding": "max_length", "max_length": 12, "truncation": True},
            {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "np"},
            {"truncation": True, "max_length": 3},
            {"truncation": True, "max_length": 4, "stride": 1, "return_overflowing_tokens": True},
            {"return_offsets_mapping": True, "return_special_tokens_mask": True},
            {"return_length": True, "return_token_type_ids": True},
            {"padding": "longest", "return_tensors": "pt", "return_attention_mask": False},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
    def test_is_that_of_the_stock_class(self, shared, stock, options, pairs):
        arguments = (TEXTS, [*TEXTS[3:], *TEXTS[:3]]) if pairs else (TEXTS,)
        if pairs and "return_overflowing_tokens" in options:
            options = {**options, "truncation": "only_first", "max_length": 60}
        ours, theirs = shared(*arguments, **options), stock(*arguments, **options)
        assert ours.keys() == theirs.keys() | set()
        for name, value in theirs.items():
            np.testing.assert_equal(np.asarray(ours[name], object), np.asarray(value, object))
        assert [ours.word_ids(i) for i in range(len(TEXTS))] == [
            theirs.word_ids(i) for i in range(len(TEXTS))
        ]

    def test_gives_what_a_gpt_takes(self, shared):
        assert list(shared("a")) == ["input_ids", "attention_mask"]

    def test_pads_right_by_default_and_left_if_told(self, shared, llm_tokenizer):
        assert shared.padding_side == "right"
        assert shared(["a b c", "a"], padding=True).attention_mask[1] == [1, 0, 0]
        left = HFTokenizerAdapter(llm_tokenizer, padding_side="left")
        assert left(["a b c", "a"], padding=True).attention_mask[1] == [0, 0, 1]

    def test_without_a_pad_token_padding_raises(self, without_parts):
        tokenizer = HFTokenizerAdapter(without_parts)
        assert tokenizer.pad_token is tokenizer.pad_token_id is tokenizer.eos_token is None
        with pytest.raises(ValueError, match="does not have a padding token"):
            tokenizer(["a", "bb"], padding=True)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer(["a", "bcd"], padding=True).input_ids[0][1:] == [300, 300]

    def test_offsets_give_the_text_of_each_token(self, shared):
        text = "Съешь ёж<eos> 😀 end"
        encoding = shared(text, return_offsets_mapping=True)
        spans = [text[start:end] for start, end in encoding.offset_mapping]
        assert "<eos>" in spans
        assert text[slice(*encoding.word_to_chars(0))] == "Съешь"
        assert encoding.char_to_token(text.index("<")) == spans.index("<eos>")

    def test_target_text_becomes_labels(self, shared, llm_tokenizer):
        assert shared("a", text_target="b c").labels == llm_tokenizer.encode("b c")

    def test_model_max_length_truncates(self, llm_tokenizer):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, model_max_length=5)
        assert tokenizer.model_max_length == 5
        ids = llm_tokenizer.encode(RUSSIAN)
        assert tokenizer(RUSSIAN, truncation=True).input_ids == ids[:5]

    def test_add_prefix_space(self, llm_tokenizer, tmp_path):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, add_prefix_space=True)
        assert tokenizer.add_prefix_space is True
        assert tokenizer.encode("the end") == llm_tokenizer.encode(" the end")
        tokenizer.save_pretrained(tmp_path)
        for opened in (HFTokenizerAdapter.from_pretrained(tmp_path), BPETokenizer.load(tmp_path)):
            assert opened.encode("the end") == llm_tokenizer.encode(" the end")


class TestPad:
    ROWS = ([5, 6, 7], [8], [9, 10])
    PADDED = ((5, 6, 7), (8, 0, 0), (9, 10, 0))

    @pytest.mark.parametrize("first", [list, np.array, torch.tensor])
    @pytest.mark.parametrize("second", [list, np.array, torch.tensor])
    @pytest.mark.parametrize("third", [list, np.array, torch.tensor])
    def test_rows_of_any_kinds(self, shared, first, second, third):
        kinds = (first, second, third)
        rows = [
            {"input_ids": kind(row), "attention_mask": kind([1] * len(row))}
            for kind, row in zip(kinds, self.ROWS, strict=True)
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        for given_rows in (rows, columns):
            tensors = shared.pad(given_rows, return_tensors="pt")
            assert tensors.input_ids.tolist() == list(map(list, self.PADDED))
            assert tensors.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
            default = shared.pad(given_rows).input_ids
            kind = {list: list, np.array: np.ndarray, torch.tensor: torch.Tensor}[first]
            assert isinstance(default, kind)
        for row, kind, ids in zip(rows, kinds, self.ROWS, strict=True):  # left as they were
            assert type(row["input_ids"]) is type(kind(ids))
            assert list(row["input_ids"]) == ids

    def test_columns_of_different_kinds(self, shared):
        mask = torch.tensor([[1, 1], [1, 0]])
        out = shared.pad({"input_ids": [[5, 6], [7, 0]], "attention_mask": mask}, padding=True)
        assert out["attention_mask"] == [[1, 1], [1, 0]]
        out = shared.pad(
            {"input_ids": np.array([[5, 6], [7, 0]])}, max_length=3, padding="max_length"
        )
        assert out["input_ids"].tolist() == [[5, 6, 0], [7, 0, 0]]

    def test_numpy_integers_and_one_encoding(self, shared):
        out = shared.pad(
            {"input_ids": [np.int64(5), np.int64(6)]}, padding="max_length", max_length=3
        )
        assert out["input_ids"] == [5, 6, 0]
        left = shared.pad([shared("a b"), shared("a")], padding_side="left", return_tensors="np")
        assert left.attention_mask.tolist() == [[1, 1], [0, 1]]

    def test_stacked_masks_are_kept(self, shared):
        rows = [{"input_ids": [1, 2], "attention_mask": torch.ones(1, 2, 2)} for _ in range(2)]
        assert shared.pad(rows, return_tensors="pt").attention_mask.shape == (2, 1, 2, 2)

    def test_what_is_no_batch_is_refused_as_in_transformers(self, shared):
        with pytest.raises(ValueError, match="includes input_ids"):
            shared.pad({"labels": [1]})

    @pytest.mark.filterwarnings("ignore:.*fast tokenizer")
    def test_collators(self, shared):
        rows = [shared(text) for text in ("a b c d", "a")]
        batch = DataCollatorWithPadding(shared)(rows)
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
        batch = DataCollatorForLanguageModeling(shared, mlm=False)(rows)
        assert batch["labels"][1].tolist()[1:] == [-100] * 3
        assert batch["labels"][0].tolist() == batch["input_ids"][0].tolist()
        flat = DataCollatorWithFlattening()([{"input_ids": row["input_ids"]} for row in rows])
        assert flat["position_ids"].tolist() == [[0, 1, 2, 3, 0]]

    def test_the_eos_token_is_a_label_where_there_is_a_pad_token(self, shared):
        rows = [shared("a<eos>"), shared("a b c")]
        batch = DataCollatorForLanguageModeling(shared, mlm=False)(rows)
        assert batch["labels"][0].tolist()[1] == shared.eos_token_id


class TestVocabulary:
    def test_sizes_and_conversions(self, shared, llm_tokenizer):
        assert len(shared) == shared.vocab_size == llm_tokenizer.vocab_size
        assert shared.get_vocab() == llm_tokenizer.get_vocab()
        tokens = [llm_tokenizer.id_to_token(token_id) for token_id in range(len(shared))]
        assert shared.convert_ids_to_tokens(range(len(shared))) == tokens
        assert shared.convert_tokens_to_ids(tokens) == list(range(len(shared)))
        assert shared.convert_tokens_to_ids("no token") == shared.unk_token_id

    def test_parts(self, shared, llm_tokenizer):
        for role in ("pad", "unk", "bos", "eos"):
            assert getattr(shared, f"{role}_token") == llm_tokenizer.special_token(role)
            assert getattr(shared, f"{role}_token_id") == getattr(llm_tokenizer, f"{role}_token_id")

    def test_special_tokens_without_a_part_are_special_too(self, shared):
        assert sorted(shared.all_special_ids) == list(range(len(SPECIALS)))
        assert shared.extra_special_tokens == ["<|im_start|>", "<é>"]
        mask = shared.get_special_tokens_mask([0, 4, 100], already_has_special_tokens=True)
        assert mask == [1, 1, 0]

    def test_a_part_can_be_given_another_token(self, llm_tokenizer):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, pad_token="<eos>")
        assert tokenizer.pad_token_id == llm_tokenizer.eos_token_id
        assert "<pad>" in tokenizer.extra_special_tokens
        assert len(tokenizer) == llm_tokenizer.vocab_size

    def test_added_tokens(self, hf_tokenizer):
        size = len(hf_tokenizer)
        assert hf_tokenizer.add_tokens(["<tool>", AddedToken("ёж", lstrip=True)]) == 2
        assert hf_tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>"]}) == 1
        assert hf_tokenizer.encode("<tool>  ёж<|end|>") == [size, size + 1, size + 2]
        assert hf_tokenizer.decode([size, size + 2], skip_special_tokens=True) == "<tool>"
        assert len(hf_tokenizer) == size + 3
        assert hf_tokenizer.add_tokens(["<tool>"]) == 0

    def test_what_is_added_around_a_text(self, shared, shared_with_ends):
        assert shared.num_special_tokens_to_add() == 0
        assert shared_with_ends.num_special_tokens_to_add() == 2
        assert shared_with_ends.num_special_tokens_to_add(pair=True) == 4
        encoding = shared_with_ends("ab", return_special_tokens_mask=True)
        assert encoding.special_tokens_mask[0] == encoding.special_tokens_mask[-1] == 1
        assert encoding.sequence_ids()[0] is None

    def test_add_bos_token_says_what_the_template_does_and_changes_it(self, with_ends, shared):
        assert (shared.add_bos_token, shared.add_eos_token) == (False, False)
        tokenizer = HFTokenizerAdapter(with_ends)
        assert (tokenizer.add_bos_token, tokenizer.add_eos_token) == (True, True)
        tokenizer.add_eos_token = False
        bare = with_ends.encode("a", add_special_tokens=False)
        assert tokenizer.encode("a") == [tokenizer.bos_token_id, *bare]
        tokenizer.add_bos_token = False
        assert tokenizer.encode("a") == bare
        assert HFTokenizerAdapter(with_ends, add_bos_token=False).add_bos_token is False


class TestChatTemplate:
    MESSAGES = (
        {"role": "user", "content": "Привет"},
        {"role": "assistant", "content": "hi there"},
    )

    def test_ids_are_those_of_the_rendered_text(self, llm_tokenizer):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, chat_template=CHATML)
        text = tokenizer.apply_chat_template(
            list(self.MESSAGES), tokenize=False, add_generation_prompt=True
        )
        assert text == (
            "<|im_start|>user\nПривет<eos>\n<|im_start|>assistant\nhi there<eos>\n"
            "<|im_start|>assistant\n"
        )
        ids = tokenizer.apply_chat_template(
            list(self.MESSAGES), add_generation_prompt=True, return_dict=False
        )
        assert ids == llm_tokenizer.encode(text, allowed_special="all")
        batch = tokenizer.apply_chat_template(
            [list(self.MESSAGES), list(self.MESSAGES[:1])],
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        assert batch["attention_mask"].sum() < batch["input_ids"].numel()

    def test_control_tokens_in_messages_can_be_text(self, llm_tokenizer):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, chat_template=CHATML)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "<eos>"}], sanitize_control_tokens=True, return_dict=False
        )
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids) == "<|im_start|>user\n<eos><eos>\n"

    def test_is_saved(self, llm_tokenizer, tmp_path):
        HFTokenizerAdapter(llm_tokenizer, chat_template=CHATML).save_pretrained(tmp_path)
        assert HFTokenizerAdapter.from_pretrained(tmp_path).chat_template == CHATML


class TestSaving:
    @pytest.mark.parametrize("opener", [AutoTokenizer, HFTokenizerAdapter])
    def test_round_trip(self, llm_tokenizer, tmp_path, opener):
        tokenizer = HFTokenizerAdapter(llm_tokenizer, model_max_length=77, padding_side="left")
        tokenizer.add_tokens(["<tool>"])
        tokenizer.save_pretrained(tmp_path)
        opened = opener.from_pretrained(tmp_path)
        assert type(opened) is HFTokenizerAdapter
        assert (opened.model_max_length, opened.padding_side) == (77, "left")
        assert opened.all_special_tokens == tokenizer.all_special_tokens
        assert opened.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        for text in [*TEXTS, *SURROGATES, "<tool>"]:
            assert opened.encode(text) == tokenizer.encode(text)
        again = tmp_path / "again"
        opened.save_pretrained(again)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            first, second = (
                json.loads((folder / name).read_text("utf-8")) for folder in (tmp_path, again)
            )
            for added_by_transformers in ("is_local", "local_files_only"):
                second.pop(added_by_transformers, None)
            assert first == second

    def test_settings_of_the_last_call_are_not_saved(self, llm_tokenizer, tmp_path):
        tokenizer = HFTokenizerAdapter(llm_tokenizer)
        tokenizer(["a b", "a"], padding="max_length", truncation=True, max_length=3)
        tokenizer.save_pretrained(tmp_path)
        assert BPETokenizer.load(tmp_path) == llm_tokenizer
        assert AutoTokenizer.from_pretrained(tmp_path)("a b c d").input_ids == (
            llm_tokenizer.encode("a b c d")
        )

    def test_folder_of_the_tokenizer_itself(self, with_ends, tmp_path):
        with_ends.save(tmp_path)
        opened = HFTokenizerAdapter.from_pretrained(tmp_path)
        direct = HFTokenizerAdapter(with_ends)
        assert opened.all_special_tokens == direct.all_special_tokens
        assert opened.add_bos_token is True
        assert opened.to_llm_tokenizer() == with_ends

    def test_no_folder_and_no_tokenizer(self, tmp_path):
        with pytest.raises(OSError, match=r"no tokenizer\.json"):
            HFTokenizerAdapter.from_pretrained(tmp_path)

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_copies(self, hf_tokenizer, duplicate):
        hf_tokenizer.add_tokens(["<tool>"])
        hf_tokenizer(["a", "b c"], padding=True)
        other = duplicate(hf_tokenizer)
        assert type(other) is HFTokenizerAdapter
        for text in [*TEXTS, *SURROGATES]:
            assert other.encode(text) == hf_tokenizer.encode(text)
        other.add_tokens(["<x>"])
        assert len(other) == len(hf_tokenizer) + 1

    def test_fingerprint_of_datasets_does_not_depend_on_use(self, hf_tokenizer):
        before = Hasher.hash(hf_tokenizer)
        hf_tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
        hf_tokenizer.decode([1, 2])
        assert Hasher.hash(hf_tokenizer) == before
        assert Hasher.hash(copy.deepcopy(hf_tokenizer)) == before
        hf_tokenizer.add_tokens(["<tool>"])
        assert Hasher.hash(hf_tokenizer) != before

    def test_dataset_map(self, hf_tokenizer, llm_tokenizer):
        rows = Dataset.from_dict({"text": ["a b", "Съешь ещё", "<eos>"]})
        mapped = rows.map(lambda batch: hf_tokenizer(batch["text"]), batched=True)
        assert mapped["input_ids"][:] == [
            llm_tokenizer.encode(text, allowed_special="all") for text in rows["text"]
        ]


class TestTraining:
    def test_keeps_pipeline_and_special_tokens(self, with_ends):
        trained = HFTokenizerAdapter(with_ends, model_max_length=9).train_new_from_iterator(
            [[ENGLISH, "\ud800"]], vocab_size=400, new_special_tokens=["<new>"], show_progress=False
        )
        assert type(trained) is HFTokenizerAdapter
        assert len(trained) == 400
        assert trained.model_max_length == 9
        assert set(SPECIALS) < set(trained.all_special_tokens)
        ours = trained.to_llm_tokenizer()
        reference = BPETokenizer()
        reference.train(
            [ENGLISH, "\ufffd"],
            vocab_size=400,
            special_tokens=[*SPECIALS, "<new>"],
            add_bos=True,
            add_eos=True,
            show_progress=False,
        )
        for text in [*TEXTS, ENGLISH[:2000]]:
            ids = ours.encode(text, allowed_special="all")
            assert trained.encode(text) == ids
            assert reference.encode(text, allowed_special="all") == ids

    def test_special_tokens_can_be_renamed(self, hf_tokenizer):
        trained = hf_tokenizer.train_new_from_iterator(
            [[ENGLISH]],
            vocab_size=400,
            special_tokens_map={"<pad>": "[PAD]", "<é>": "<e>"},
            show_progress=False,
        )
        assert trained.pad_token == "[PAD]"
        assert len(trained) == 400
        assert not {"<pad>", "<é>"} & set(trained.all_special_tokens)
        assert "<e>" in trained.extra_special_tokens


class TestBack:
    def test_of_what_was_wrapped_is_equal(self, llm_tokenizer, with_ends, without_parts):
        for tokenizer in (llm_tokenizer, with_ends, without_parts):
            assert HFTokenizerAdapter(tokenizer).to_llm_tokenizer() == tokenizer

    def test_does_not_depend_on_earlier_calls(self, hf_tokenizer, llm_tokenizer):
        hf_tokenizer(["a b", "a"], padding=True, truncation=True, max_length=4)
        assert hf_tokenizer.to_llm_tokenizer() == llm_tokenizer

    @many_times
    @given(text=any_text)
    def test_ids_with_added_tokens(self, text):
        adapter, back = _with_added_tokens()
        assert back.encode(text, allowed_special="all") == adapter.encode(text)

    def test_parts_and_added_tokens_are_those_of_now(self):
        adapter, back = _with_added_tokens()
        assert back.special_token("pad") == "<padding>"
        assert back.special_token("eos") is None
        assert back.special_token("bos") == "<|im_start|>"
        assert back.vocab_size == len(adapter)
        assert back.special_tokens == [*SPECIALS, "<padding>"]
        assert HFTokenizerAdapter(back).encode(" the <tool>") == adapter.encode(" the <tool>")

    def test_added_around_is_that_of_now(self, llm_tokenizer):
        adapter = HFTokenizerAdapter(llm_tokenizer, add_bos_token=True)
        ids = adapter.to_llm_tokenizer().encode("a")
        assert (
            ids == adapter.encode("a") == [llm_tokenizer.bos_token_id, *llm_tokenizer.encode("a")]
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.add_tokens([AddedToken("x", single_word=True)]), "single_word"),
            (lambda t: setattr(t, "pad_token", "[NEW]"), r"pad_token='\[NEW\]'"),
            (lambda t: t.add_special_tokens({"cls_token": "e"}), "single byte"),
            (
                lambda t: setattr(t.backend_tokenizer, "normalizer", _lowercase()),
                "normalizer",
            ),
        ],
        ids=["single word", "unknown pad", "special byte", "lowercase"],
    )
    def test_what_it_cannot_express_is_an_error(self, hf_tokenizer, change, message):
        change(hf_tokenizer)
        with pytest.raises(ValueError, match=f"(?s)cannot express this tokenizer: .*{message}"):
            hf_tokenizer.to_llm_tokenizer()


class TestErrors:
    def test_untrained(self):
        with pytest.raises(ValueError, match="train it, or load one"):
            HFTokenizerAdapter(BPETokenizer())

    @pytest.mark.parametrize("wrong", ["folder", 3, object()])
    def test_no_tokenizer_of_ours(self, wrong):
        with pytest.raises(TypeError, match=r"such as BPETokenizer, not \w+.*from_pretrained"):
            HFTokenizerAdapter(wrong)

    def test_nothing(self):
        with pytest.raises(TypeError, match="takes a tokenizer"):
            HFTokenizerAdapter()

    def test_a_part_played_by_an_ordinary_token(self, llm_tokenizer, tmp_path):
        llm_tokenizer.save(tmp_path)
        config = tmp_path / "tokenizer_config.json"
        config.write_text(json.dumps({"pad_token": "!"}), encoding="utf-8")
        tokenizer = BPETokenizer.load(tmp_path)
        with pytest.raises(ValueError, match=r"pad_token=.!. is an ordinary .* pad_token=None"):
            HFTokenizerAdapter(tokenizer)
        assert HFTokenizerAdapter(tokenizer, pad_token=None).encode("a!!") == tokenizer.encode(
            "a!!"
        )


class TestPatterns:
    @pytest.mark.parametrize("pattern", ["cl100k_base", "o200k_base", r" ?\p{L}+|\s+"])
    def test_ids_are_those_of_the_tokenizer_here_and_in_stock(self, pattern, tmp_path):
        tokenizer = train(pattern=pattern, add_bos=True)
        adapter = HFTokenizerAdapter(tokenizer)
        tokenizer.save(tmp_path)
        stock = AutoTokenizer.from_pretrained(tmp_path)
        for text in [*TEXTS, RUSSIAN, "DON'T 1234567 \n  x/\n"]:
            ids = tokenizer.encode(text, allowed_special="all")
            assert adapter.encode(text) == stock.encode(text) == ids
            assert adapter.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)
        assert adapter.to_llm_tokenizer() == tokenizer


class TestMissingBytes:
    @pytest.fixture
    def lacking(self, tmp_path_factory):
        document = json.loads(train(add_bos=True).to_json())
        names = [token["content"] for token in document["added_tokens"]]
        names += [chr(code) for code in range(0x21, 0x7F) if chr(code) != "Q"] + ["Ġ", "Ċ", "th"]
        document["model"]["merges"] = [["t", "h"]]
        document["model"]["vocab"] = {name: token_id for token_id, name in enumerate(names)}
        folder = tmp_path_factory.mktemp("lacking")
        (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        return folder, BPETokenizer.load(folder)

    def test_ids_are_those_of_the_tokenizer_or_an_error(self, lacking, tmp_path):
        _, tokenizer = lacking
        adapter = HFTokenizerAdapter(tokenizer)
        assert isinstance(adapter, HFTokenizerAdapter)
        assert not adapter.is_fast
        adapter.save_pretrained(tmp_path)
        again = HFTokenizerAdapter.from_pretrained(tmp_path)
        for wrapped in (adapter, again, AutoTokenizer.from_pretrained(tmp_path)):
            for text in ("the path\n", "", "<eos>th<é><|im_start|> x<pad", "word " * 2000):
                ids = tokenizer.encode(text, allowed_special="all")
                assert wrapped.encode(text) == ids
                assert wrapped([text, "th"]).input_ids == [ids, tokenizer.encode("th")]
                assert wrapped.decode(ids, skip_special_tokens=True) == tokenizer.decode(
                    ids, skip_special_tokens=True
                )
            for text in ("Queen", "the ёж", "word " * 2000 + "Q"):
                with pytest.raises(ValueError, match="no token for the byte"):
                    wrapped(text)
                with pytest.raises(ValueError, match="no token for the byte"):
                    wrapped(["the", text])
            assert wrapped.to_llm_tokenizer() == tokenizer

    def test_a_folder_is_refused_that_the_backend_would_lose_bytes_with(self, lacking):
        folder, tokenizer = lacking
        stock = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert stock.encode("Qx").ids == tokenizer.encode("x")  # not a word about the Q
        with pytest.raises(ValueError, match=r"no token for 161 bytes.*BPETokenizer\.load"):
            HFTokenizerAdapter.from_pretrained(folder)


def _with_added_tokens(cache=[]):  # noqa: B006  # once for all examples
    if not cache:
        adapter = HFTokenizerAdapter(train())
        adapter.add_special_tokens({"pad_token": "<padding>"})
        adapter.add_tokens(["<tool>", AddedToken(" the", rstrip=True), "ещё"])
        adapter.eos_token = None
        adapter.bos_token = "<|im_start|>"
        cache[:] = adapter, adapter.to_llm_tokenizer()
    return cache


def _lowercase():
    return Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {"type": "Lowercase"},
                "model": {"type": "BPE", "vocab": {}, "merges": []},
            }
        )
    ).normalizer
