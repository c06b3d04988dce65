"""Special tokens: matched when asked for, forged never, and the parts they play."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokenizers import BPETokenizer
from llm.tokenizers._special_tokens import AddedToken, AddedTokenMatcher

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]


def train(**options):
    tokenizer = BPETokenizer()
    tokenizer.train(["the theatre, Театр"] * 5, 270, show_progress=False, **options)
    return tokenizer


@given(data=st.data())
def test_no_text_gives_a_special_token_by_default(data, any_text, tokenizer):
    text = data.draw(any_text) + data.draw(st.sampled_from(SPECIALS)) + data.draw(any_text)
    ids = tokenizer.encode(text)
    assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_allowed_special_tokens_are_matched_and_no_others(tokenizer):
    text = "<bos>Ёлка<eos><pad>"
    assert tokenizer.encode(text, allowed_special="all")[-2:] == [3, 0]
    ids = tokenizer.encode(text, allowed_special={"<eos>"})
    assert [token_id for token_id in ids if token_id < 4] == [3]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, allowed_special=["<eos>"]) == ids


def test_what_is_no_special_token_cannot_be_allowed(tokenizer):
    with pytest.raises(ValueError, match="'<sep>' is not a special token"):
        tokenizer.encode("x", allowed_special={"<sep>", "<eos>"})
    with pytest.raises(ValueError, match="'none' is neither 'all' nor a set"):
        tokenizer.encode("x", allowed_special="none")


def test_skip_special_tokens_leaves_them_out(tokenizer):
    ids = [2, *tokenizer.encode("ёж <eos>"), 3, 0]
    assert tokenizer.decode(ids) == "<bos>ёж <eos><eos><pad>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ёж <eos>"
    assert tokenizer.decode_batch([ids, [0]], skip_special_tokens=True) == ["ёж <eos>", ""]


def test_parts_are_found_by_conventional_names():
    tokenizer = train(special_tokens=SPECIALS)
    assert [tokenizer.pad_token, tokenizer.unk_token] == ["<pad>", "<unk>"]
    assert [tokenizer.bos_token, tokenizer.eos_token] == ["<bos>", "<eos>"]
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id] == [0, 1]
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id] == [2, 3]
    assert tokenizer.special_tokens == SPECIALS
    gpt2 = train(special_tokens=["<|endoftext|>"])
    assert (gpt2.bos_token, gpt2.eos_token) == ("<|endoftext|>", "<|endoftext|>")
    assert (gpt2.pad_token, gpt2.pad_token_id) == (None, None)


def test_parts_can_be_given():
    tokenizer = train(special_tokens=["<x>", "<конец>"], eos_token="<конец>", pad_token="<конец>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 1)
    assert tokenizer.bos_token is None
    assert tokenizer.decode(tokenizer.encode("а<конец>", allowed_special="all")) == "а<конец>"
    with pytest.raises(ValueError, match="pad_token='<y>' is not one of special_tokens"):
        train(special_tokens=["<x>"], pad_token="<y>")
    with pytest.raises(ValueError, match="role='sep' is not one of pad, unk, bos, eos"):
        tokenizer.special_token("sep")


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "before", "after"),
    [
        (True, False, [2], []),
        (False, True, [], [3]),
        (True, True, [2], [3]),
        (False, False, [], []),
    ],
)
def test_the_template_is_applied_when_asked_for(add_bos, add_eos, before, after):
    tokenizer = train(special_tokens=SPECIALS, add_bos=add_bos, add_eos=add_eos)
    plain = tokenizer.encode("the Театр", add_special_tokens=False)
    assert plain
    assert tokenizer.encode("the Театр") == [*before, *plain, *after]
    assert tokenizer.encode("") == [*before, *after]
    batch = tokenizer.encode_batch(["the Театр", ""])
    assert batch == [[*before, *plain, *after], [*before, *after]]
    assert tokenizer.encode_batch(["the Театр"], add_special_tokens=False) == [plain]


def test_a_template_needs_its_token():
    with pytest.raises(ValueError, match="add_bos=True, but no special token is the bos token"):
        train(special_tokens=["<pad>"], add_bos=True)


@pytest.mark.parametrize(
    ("special_tokens", "error", "message"),
    [
        (["<a>", "<a>"], ValueError, "'<a>' is given twice"),
        ([""], ValueError, "'' is empty"),
        (["<\ud800>"], ValueError, "no valid Unicode"),
        (["!"], ValueError, "'!' is the name of a byte"),
        (["Ġ"], ValueError, "'Ġ' is the name of a byte"),
        ([7], TypeError, "special token 7 is not a str"),
        ("<pad>", TypeError, "is one string"),
    ],
)
def test_bad_special_tokens_are_errors(special_tokens, error, message):
    with pytest.raises(error, match=message):
        train(special_tokens=special_tokens)


def test_the_longest_token_is_matched_and_takes_its_white_space():
    short = AddedToken(token_id=0, content="<a>", lstrip=True)
    long = AddedToken(token_id=1, content="<a><b>", rstrip=True)
    matcher = AddedTokenMatcher([short, long])
    assert list(matcher.split("x \x85<a> y <a><b>\n z\x1c<a>")) == [
        *("x", 0, " y ", 1, "z\x1c", 0),
    ]


def test_a_special_token_in_letters_of_the_byte_alphabet_round_trips():
    # `é` is also the printable name of the byte E9
    tokenizer = train(special_tokens=["<début>", "<ёлка>"])
    text = "<début>the<ёлка>"
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == text
