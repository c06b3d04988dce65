"""Other published forms: GPT-2's files, tiktoken's encodings, patterns by name."""

import json
import random
import re

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from llm.tokenizers import BPETokenizer
from llm.tokenizers._pretokenize import GPT2_PATTERN, Split
from llm.tokenizers._published_patterns import PUBLISHED_PATTERNS, find_pattern

GPT2_OF_TIKTOKEN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)
CL100K_OF_TIKTOKEN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
OWN = r" ?\p{L}+|\d|[^\s\p{L}\d]+|\s"
# As `train` takes them, and as tiktoken and tokenizers spell them.
SPELLINGS = {
    "gpt2": (GPT2_OF_TIKTOKEN, GPT2_PATTERN),
    "cl100k_base": (
        CL100K_OF_TIKTOKEN,
        CL100K_OF_TIKTOKEN.replace("$", r"\z").replace("{1,3}+", "{1,3}"),
    ),
    "o200k_base": (O200K, O200K),
    "llama3": (LLAMA3, LLAMA3),
    "qwen2": (QWEN2, QWEN2),
    OWN: (OWN, OWN),
}
HOSTILE = [
    "",
    " ",
    "a \n  ",
    "x\n \n\t y \r\n  ",
    "DON'T we'Ve it's I'LL ſ's Ёлка'S",
    "1234567 12 ٣٤٥٦ ½¼Ⅷ",
    "path/to//file/\n// comment\r\n/",
    "camelCaseWords HTTPServer ПриветМир ǅungla aʰb",
    "e\u0301a\u0308 й x̂y",
    "\u3000日本語\x85\x1c\u200b😀👩‍👩‍👧",
    "a\ud800b \ud83d\ude00",
]


def encoding_of(tokenizer, pattern=GPT2_PATTERN):
    """The tiktoken encoding with the same merges: a rank is an id, in the order of merges."""
    specials = {name: tokenizer.token_to_id(name) for name in tokenizer.special_tokens}
    ranks = {
        tokenizer.decode_bytes([token_id]): token_id
        for token, token_id in tokenizer.get_vocab().items()
        if token not in specials
    }
    return tiktoken.Encoding(
        "ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
    )


@given(data=st.data())
def test_ids_of_any_text_are_those_of_tiktoken_with_the_same_merges(data, any_text, tokenizer):
    text = data.draw(any_text)
    encoding = encoding_of(tokenizer)
    assert tokenizer.encode(text) == encoding.encode_ordinary(text)
    ids = encoding.encode(text, allowed_special="all")
    assert tokenizer.encode(text, allowed_special="all") == ids
    assert tokenizer.decode(ids) == encoding.decode(ids)


def test_ids_of_the_corpus_are_those_of_tiktoken(tokenizer, corpus, hard_texts):
    encoding = encoding_of(tokenizer)
    for text in [*corpus, *hard_texts, "a\ud800b \ud83d\ude00"]:
        assert tokenizer.encode(text) == encoding.encode(text, disallowed_special=())


@pytest.mark.parametrize("pattern", [GPT2_OF_TIKTOKEN, CL100K_OF_TIKTOKEN])
def test_a_tiktoken_encoding_gives_its_ids_here_and_in_tokenizers(
    pattern, tokenizer, corpus, hard_texts, tmp_path
):
    encoding = encoding_of(tokenizer, pattern)
    ours = BPETokenizer.from_tiktoken(encoding)
    ours.save(tmp_path / "t.json")
    assert BPETokenizer.load(tmp_path / "t.json") == ours
    library = Tokenizer.from_file(str(tmp_path / "t.json"))
    for text in [*corpus, *hard_texts]:
        ids = encoding.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == ids
        assert library.encode(text).ids == ids
        assert ours.encode(text) == encoding.encode_ordinary(text)


@pytest.mark.parametrize("seed", range(20))
def test_tiktoken_vocabularies_that_no_training_gave_are_read_exactly(seed, tmp_path):
    # ranks at random: parts above their wholes, tokens that merging never reaches, unused ids
    rng = random.Random(seed)
    alphabet = rng.choice([b"ab", b"abc", b"ab "])
    tokens = sorted({bytes(rng.choices(alphabet, k=rng.randrange(2, 8))) for _ in range(80)})
    rng.shuffle(tokens)
    ids = iter(rng.sample(range(400), 340))
    ranks = {token: next(ids) for token in [*(bytes([byte]) for byte in range(256)), *tokens]}
    specials = {"<|endoftext|>": 400, "<|low|>": next(ids)}
    encoding = tiktoken.Encoding(
        "random", pat_str=CL100K_OF_TIKTOKEN, mergeable_ranks=ranks, special_tokens=specials
    )
    ours = BPETokenizer.from_tiktoken(encoding)
    assert ours.vocab_size == 401
    assert ours.eos_token_id == 400
    ours.save(tmp_path / "t.json")
    library = Tokenizer.from_file(str(tmp_path / "t.json"))
    for _ in range(60):
        text = bytes(rng.choices(alphabet, k=rng.choice([3, 20, 600]))).decode()
        text += rng.choice(["", "<|low|>x", " \n \n", "12345"])
        expected = encoding.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == expected
        assert library.encode(text).ids == expected
        assert ours.decode(expected) == encoding.decode(expected)


def test_ids_that_an_encoding_leaves_unused_are_reserved():
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "holes", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    tokenizer = BPETokenizer.from_tiktoken(encoding)
    reserved = ["<|reserved_256|>", "<|reserved_257|>"]
    assert tokenizer.special_tokens == [*reserved, "<|endoftext|>"]
    assert len(tokenizer) == encoding.n_vocab == 259


def test_a_tiktoken_encoding_that_cannot_be_read_is_an_error():
    ranks = {bytes([byte]): byte for byte in range(256)}
    unknown = tiktoken.Encoding("words", pat_str=r"\w+", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match=r"tiktoken encoding 'words': .*\\w\+"):
        BPETokenizer.from_tiktoken(unknown)
    words = tiktoken.Encoding(
        "words", pat_str=r".", mergeable_ranks={b"ab": 0, b"cd": 1}, special_tokens={}
    )
    with pytest.raises(ValueError, match=r"tiktoken encoding 'words'.* no token for any byte"):
        BPETokenizer.from_tiktoken(words)


def every_way(tokenizer, text):
    """Ids of a text by each method, which have to be one."""
    ids = tokenizer.encode(text)
    assert all(type(token_id) is int for token_id in ids)
    assert tokenizer.encode_numpy(text).tolist() == ids
    assert tokenizer.encode_batch(["", text]) == [[], ids]
    return ids


def assert_no_way(tokenizer, text, message):
    """No method gives ids of a text."""
    for encode in (
        tokenizer.encode,
        tokenizer.encode_numpy,
        lambda text: tokenizer.encode_batch(["a", text, "a"]),
        lambda text: tokenizer.encode_batch(["a", text, "a"] * 9, num_threads=2),
        lambda text: tokenizer.encode(text, allowed_special="all"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(text)


@pytest.mark.parametrize("pattern", [GPT2_OF_TIKTOKEN, CL100K_OF_TIKTOKEN])
@pytest.mark.parametrize("seed", range(6))
def test_a_tiktoken_encoding_that_lacks_bytes_gives_its_ids_or_names_the_byte(
    pattern, seed, tmp_path
):
    rng = random.Random(seed)
    known = b"abc \n"  # and no d, e, f
    tokens = {bytes(rng.choices(b"abcd ", k=rng.randrange(2, 6))) for _ in range(60)}
    tokens |= {b"de", b" ef", b" ad"}
    ranks = {token: rank for rank, token in enumerate([*({bytes([b]) for b in known}), *tokens])}
    encoding = tiktoken.Encoding(
        "lacking",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={"<d>": len(ranks)},
    )
    encoding_again = BPETokenizer.from_tiktoken(encoding)
    encoding_again.save(tmp_path / "t.json")
    ours = BPETokenizer.load(tmp_path / "t.json")
    assert ours == encoding_again
    assert set(range(256)) - set(ours.missing_bytes) == set(known)
    library = Tokenizer.from_file(str(tmp_path / "t.json"))
    for length in (0, 1, 5, 60, 5000):
        text = bytes(rng.choices(known, k=length)).decode()
        ids = encoding.encode_ordinary(text)
        assert every_way(ours, text) == ids == library.encode(text).ids
        # chunks that are tokens need no bytes
        text += "\nde ef ad\n"
        assert every_way(ours, text) == encoding.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text
        text += "<d>\n"
        ids = encoding.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == ids
        for word, byte in (("adé", "d"), ("efa", "e"), ("ё", "\xd1")):
            message = f"no token for the byte {ord(byte):#04x} of '{word}'"
            assert_no_way(ours, f"{text[:-4]}{word}", message)
            assert_no_way(ours, f"{word}\n{text[:-4]}", message)
        # what failed has left nothing behind
        assert ours.encode(text, allowed_special="all") == ids
        assert every_way(ours, "abc\n" * 2000) == encoding.encode_ordinary("abc\n" * 2000)


# patterns


@pytest.fixture(scope="module", params=SPELLINGS)
def trained(request, corpus, train_library, tmp_path_factory):
    """Tokenizers of one pattern: ours, the library's, the library's of our file, tiktoken's."""
    of_tiktoken, of_library = SPELLINGS[request.param]
    # what the patterns cut differently is frequent enough to be merged
    texts = [corpus[0][:50_000], *corpus[1:], *HOSTILE[:-1] * 60]
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(of_library), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library = train_library(texts, 900, ["<eos>"], pre_tokenizer)
    ours = BPETokenizer()
    ours.train(texts, 900, ["<eos>"], pattern=request.param, show_progress=False)
    path = tmp_path_factory.mktemp("trained") / "tokenizer.json"
    ours.save(path)
    assert BPETokenizer.load(path) == ours
    return ours, library, Tokenizer.from_file(str(path)), encoding_of(ours, of_tiktoken)


def test_every_published_pattern_is_tested():
    assert {*PUBLISHED_PATTERNS, OWN} == SPELLINGS.keys()


def pieces_of_tiktoken(pattern, pieces, text):
    """What tiktoken cuts a text into: with all of these pieces tokens, an id is a piece."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for piece in pieces:
        ranks.setdefault(piece.encode(), len(ranks))
    encoding = tiktoken.Encoding("p", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [
        encoding.decode_single_token_bytes(token_id).decode()
        for token_id in encoding.encode_ordinary(text)
    ]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_published_pattern_cuts_as_tiktoken_and_tokenizers(name, corpus, hard_texts):
    of_tiktoken, of_library = SPELLINGS[name]
    split = Split(find_pattern(name))
    library = pre_tokenizers.Split(Regex(of_library), "isolated")
    for text in [*corpus, *hard_texts, *HOSTILE[:-1]]:
        pieces = list(split(text))
        assert pieces == [piece for piece, _ in library.pre_tokenize_str(text)]
        assert pieces == pieces_of_tiktoken(of_tiktoken, pieces, text)


def test_merges_trained_with_a_pattern_are_those_of_tokenizers(trained):
    ours, library, *_ = trained
    ours, theirs = json.loads(ours.to_json()), json.loads(library.to_str())
    assert len(theirs["model"]["merges"]) == 643
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]


def test_ids_of_a_trained_pattern_are_those_of_tokenizers_and_tiktoken(trained, corpus, hard_texts):
    ours, library, stock, encoding = trained
    library.encode_special_tokens = stock.encode_special_tokens = True
    for text in [*corpus, *hard_texts, *HOSTILE]:
        ids = every_way(ours, text)
        assert encoding.encode_ordinary(text) == ids
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert stock.encode(text).ids == ids
        assert library.encode(text).ids == ids
        assert ours.decode(ids) == text


@given(data=st.data())
def test_ids_of_any_text_with_a_trained_pattern(trained, any_text, data):
    ours, _, stock, encoding = trained
    text = data.draw(any_text)
    ids = ours.encode(text, allowed_special="all")
    assert ids == encoding.encode(text, allowed_special="all")
    stock.encode_special_tokens = False
    assert ids == stock.encode(text).ids


def small(**options):
    tokenizer = BPETokenizer()
    tokenizer.train(["it's so, it's so, 12 times"], 256, show_progress=False, **options)
    return tokenizer


def test_the_pattern_is_that_of_gpt2_if_none_is_named():
    tokenizer = small()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    assert json.loads(tokenizer.to_json())["pre_tokenizer"] == {**byte_level, "use_regex": True}
    assert small(pattern="gpt2") == small(pattern=GPT2_PATTERN) == tokenizer
    assert small(pattern="cl100k_base") != tokenizer


def test_a_pattern_is_saved_as_published(tmp_path):
    split, byte_level = json.loads(small(pattern="o200k_base").to_json())["pre_tokenizer"][
        "pretokenizers"
    ]
    assert split["type"] == "Split"
    assert split["pattern"] == {"Regex": O200K}
    assert (split["behavior"], split["invert"]) == ("Isolated", False)
    assert byte_level["use_regex"] is False


@pytest.mark.parametrize(
    "name",
    ["gpt-4", "GPT2", "gpt3.5", "cl100k", "r50k_base", "meta-llama/Llama-3.1-8B", "qwen2 ", "жук"],
)
def test_a_name_that_no_pattern_has_is_an_error_that_names_those_there_are(name):
    texts = iter(["some text"])
    with pytest.raises(ValueError, match="gpt2, cl100k_base, o200k_base") as error:
        BPETokenizer().train(texts, 300, pattern=name, show_progress=False)
    assert repr(name) in str(error.value)
    assert next(texts) == "some text"  # nothing was read in vain


def test_a_name_can_be_meant_as_a_pattern():
    for pattern in ("(?:it)", " ", "."):  # the last two are no names
        section = json.loads(small(pattern=pattern).to_json())["pre_tokenizer"]
        assert section["pretokenizers"][0]["pattern"] == {"Regex": pattern}


def test_a_pattern_that_cannot_be_used_is_an_error_and_keeps_the_vocabulary():
    tokenizer = small()
    cases = [(r"\w+", r"\w+"), (r"(a", "does not compile"), ("", "empty string"), ("a*", "empty")]
    for pattern, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            tokenizer.train(["text"], 300, pattern=pattern, show_progress=False)
    for pattern in (None, re.compile("a+")):
        with pytest.raises(TypeError, match="pattern has to be a str"):
            tokenizer.train(["text"], 300, pattern=pattern, show_progress=False)
    assert tokenizer == small()


# GPT-2's files


@pytest.fixture
def gpt2_files(tokenizer, tmp_path):
    """A tokenizer in the form of GPT-2's files."""
    tokenizer.save(tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]
    encoder_json, vocab_bpe = tmp_path / "encoder.json", tmp_path / "vocab.bpe"
    encoder_json.write_text(json.dumps(model["vocab"]), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""]
    vocab_bpe.write_text("\n".join(lines), "utf-8")
    return encoder_json, vocab_bpe


def test_gpt2_files_give_the_same_tokenizer(gpt2_files, tokenizer):
    assert BPETokenizer.from_gpt2_files(*gpt2_files) == tokenizer


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vocab.bpe", lambda text: text + "a b c\n", "vocab.bpe: line .* is 'a b c'"),
        ("vocab.bpe", lambda text: text + "alone\n", "vocab.bpe: line .* is 'alone'"),
        ("encoder.json", lambda text: "{}", "has no token for any byte"),
        ("vocab.bpe", lambda text: text + "Ġ Ċ\n", r"merges\[740\]: 'ĠĊ' is not in the vocabulary"),
        ("encoder.json", lambda text: text[:-9], "encoder.json is not valid JSON"),
        ("encoder.json", lambda text: "[1]", "encoder.json: vocab is .*not an object"),
        ("encoder.json", lambda text: text.replace("0", '"0"', 1), "encoder.json: vocab"),
        ("encoder.json", lambda text: text.replace(": 9,", ": 8,"), "id 8 is both"),
    ],
)
def test_damaged_gpt2_files_are_errors(gpt2_files, name, damage, message):
    path = gpt2_files[0].parent / name
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError, match=message):
        BPETokenizer.from_gpt2_files(*gpt2_files)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{name} is not UTF-8"):
        BPETokenizer.from_gpt2_files(*gpt2_files)


def test_gpt2_files_that_lack_bytes_give_the_ids_of_tokenizers(gpt2_files, tokenizer, corpus):
    encoder_json, vocab_bpe = gpt2_files
    merges = vocab_bpe.read_text("utf-8").splitlines()[1:]
    used = {*"".join(merges), *"abcdefghijklmnopqrstuvwxyzĠĊ"} - {" "}
    tokens = ["<eos>", *sorted(used), *(merge.replace(" ", "") for merge in merges)]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    encoder_json.write_text(json.dumps(vocab), "utf-8")
    ours = BPETokenizer.from_gpt2_files(encoder_json, vocab_bpe)
    assert ours.special_tokens == ["<eos>"]
    assert len(ours.missing_bytes) == 256 - len(used) > 100
    library = Tokenizer(models.BPE.from_file(str(encoder_json), str(vocab_bpe)))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word in corpus[0].split(" ") if word.isascii() and set(word) <= used]
    assert len(words) > 5000
    text = " ".join(words)
    for part in (text[:50], text[:3000], text):
        assert every_way(ours, part) == library.encode(part).ids
        assert_no_way(ours, f"{part} \x00", "no token for the byte 0x00")


@pytest.mark.parametrize(
    "merges",
    [["t h", "th e</w>"], ["♥ ♥"]],
    ids=["ends of words", "characters"],
)
def test_gpt2_files_that_are_not_byte_level_are_errors(merges, tmp_path):
    tokens = ["<unk>", *"the♥", "e</w>", *(merge.replace(" ", "") for merge in merges)]
    vocab = {token: token_id for token_id, token in enumerate(dict.fromkeys(tokens))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(merges), "utf-8")
    part = merges[-1].split(" ")[1]
    with pytest.raises(ValueError, match=rf"merges\.txt: .*'{part}'.* not a byte-level vocabulary"):
        BPETokenizer.from_gpt2_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
