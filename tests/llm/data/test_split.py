"""DocumentSplit: a text is always on the same side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import DocumentSplit

TEXTS = [f"document {i}" for i in range(4000)]


@given(texts=st.lists(st.text(max_size=5)), seed=st.integers(0, 2**63 - 1))
def test_no_text_is_on_both_sides_and_none_is_lost(texts, seed):
    split = DocumentSplit(validation_fraction=0.5, seed=seed)
    train, validation = list(split.train(texts)), list(split.validation(texts))
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(texts)


@given(text=st.text(), cut=st.integers(0, 20))
def test_a_text_in_parts_is_on_the_side_of_the_whole(text, cut):
    split = DocumentSplit(validation_fraction=0.5)
    assert split.is_validation(text) == split.is_validation([text[:cut], text[cut:]])


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 1.0])
def test_the_share_is_the_one_asked_for(fraction):
    share = len(list(DocumentSplit(validation_fraction=fraction).validation(TEXTS))) / len(TEXTS)
    assert abs(share - fraction) <= 3 * (fraction * (1 - fraction) / len(TEXTS)) ** 0.5


def test_seeds_split_differently():
    zero, one = (
        set(DocumentSplit(validation_fraction=0.5, seed=s).validation(TEXTS)) for s in (0, 1)
    )
    assert 900 < len(zero & one) < 1100


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "half", True])
def test_what_is_no_share_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction="):
        DocumentSplit(validation_fraction=fraction)
