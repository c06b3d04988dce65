"""TextDataset and collate: every token is accounted for."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.training import TextDataset, collate


@settings(deadline=None, max_examples=200)
@given(data=st.data(), size=st.integers(2, 60), block_size=st.integers(2, 20))
def test_blocks_are_the_corpus_cut_at_the_stride(data, size, block_size):
    stride = data.draw(st.integers(1, block_size))
    ids = list(range(100, 100 + size))
    dataset = TextDataset(ids, block_size=block_size, stride=stride)
    blocks = [dataset[i]["input_ids"].tolist() for i in range(len(dataset))]
    assert blocks == [ids[i * stride : i * stride + block_size] for i in range(len(blocks))]
    assert all(len(block) >= 2 for block in blocks)
    # nothing is lost but a last token that is alone, and no block is in vain
    seen = {token for block in blocks for token in block}
    lost = [token for token in ids if token not in seen]
    assert lost == ([ids[-1]] if stride == block_size and size % stride == 1 else [])
    for earlier, later in itertools.pairwise(blocks):
        assert set(later) - set(earlier)


@settings(deadline=None, max_examples=100)
@given(size=st.integers(2, 80), block_size=st.integers(2, 20))
def test_overlap_of_one_makes_every_token_but_the_first_a_target_once(size, block_size):
    dataset = TextDataset(range(size), block_size=block_size, stride=block_size - 1)
    targets = [t for i in range(len(dataset)) for t in dataset[i]["labels"][1:].tolist()]
    assert targets == list(range(1, size))


def test_default_stride_is_the_block_size():
    dataset = TextDataset(range(10), block_size=4)
    assert [dataset[i]["input_ids"].tolist() for i in range(len(dataset))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_labels_are_the_unshifted_input_ids_and_not_the_same_tensor():
    example = TextDataset(range(10), block_size=4)[0]
    assert example["labels"].tolist() == example["input_ids"].tolist()
    assert example["input_ids"].dtype == example["labels"].dtype == torch.int64
    example["labels"][0] = -100
    assert example["input_ids"][0] == 0


def test_documents_are_joined_by_eos(tokenizer, texts):
    dataset = TextDataset.from_texts(texts, tokenizer, block_size=8, show_progress=False)
    expected = []
    for text in texts:
        if expected:
            expected.append(tokenizer.eos_token_id)
        expected += tokenizer.encode(text)
    assert dataset.token_ids.tolist() == expected


def test_eos_written_in_a_document_is_text_and_no_end(tokenizer):
    dataset = TextDataset.from_texts(["a<eos>b"], tokenizer, block_size=8, show_progress=False)
    assert tokenizer.eos_token_id not in dataset.token_ids.tolist()


def test_texts_may_come_from_a_generator(tokenizer, texts):
    listed = TextDataset.from_texts(texts, tokenizer, block_size=8, show_progress=False)
    drawn = TextDataset.from_texts(iter(texts), tokenizer, block_size=8, show_progress=False)
    assert drawn.fingerprint() == listed.fingerprint()


def test_several_documents_need_an_eos(texts):
    from llm.tokenizers import BPETokenizer

    plain = BPETokenizer()
    plain.train(texts, 260, show_progress=False)
    with pytest.raises(ValueError, match="<eos>"):
        TextDataset.from_texts(texts, plain, block_size=8, show_progress=False)
    assert len(TextDataset.from_texts(texts[:1], plain, block_size=8, show_progress=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1],), "at least 2 tokens"),
        (([],), "at least 2 tokens"),
        (([1, -1, 2],), "-1"),
        ((np.array([0.5, 1.0]),), "whole numbers"),
        ((np.array([[1, 2], [3, 4]]),), "one dimension"),
    ],
)
def test_bad_ids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextDataset(*arguments, block_size=4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"block_size": 1}, "block_size=1"),
        ({"block_size": 4, "stride": 0}, "stride=0"),
        ({"block_size": 4, "stride": 5}, "stride=5 is more than block_size=4"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        TextDataset(range(10), **sizes)


def test_an_index_past_the_end_is_an_index_error():
    dataset = TextDataset(range(10), block_size=4)
    with pytest.raises(IndexError, match="example 3 of 3"):
        dataset[3]
    assert len(list(dataset)) == 3  # iteration ends there


def test_large_ids_survive_storage():
    ids = [0, 2**16, 2**31, 2**32 - 1]
    assert TextDataset(ids, block_size=4)[0]["input_ids"].tolist() == ids


def test_fingerprint_changes_with_tokens_and_sizes():
    prints = {
        TextDataset([1, 2, 3], block_size=2).fingerprint(),
        TextDataset([1, 2, 4], block_size=2).fingerprint(),
        TextDataset([1, 2, 3], block_size=3).fingerprint(),
        TextDataset([1, 2, 3], block_size=2, stride=1).fingerprint(),
    }
    assert len(prints) == 4
    small, large = np.array([1, 2, 3], dtype=np.uint16), np.array([1, 2, 3], dtype=np.int64)
    assert (
        TextDataset(small, block_size=2).fingerprint()
        == TextDataset(large, block_size=2).fingerprint()
    )


def test_collate_pads_on_the_right_and_predicts_no_padding():
    examples = [
        {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([5, 6, 7])},
        {"input_ids": torch.tensor([8]), "labels": torch.tensor([8])},
    ]
    batch = collate(examples, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]


def test_one_string_is_not_a_list_of_documents(tokenizer):
    with pytest.raises(TypeError, match="one string"):
        TextDataset.from_texts("the cat sat", tokenizer, block_size=8, show_progress=False)


def test_ids_of_several_documents_are_stored_in_two_bytes(tokenizer, texts):
    dataset = TextDataset.from_texts(texts, tokenizer, block_size=8, show_progress=False)
    assert dataset.token_ids.dtype == np.uint16
