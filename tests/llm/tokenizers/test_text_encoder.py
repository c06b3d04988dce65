"""Every way to encode gives the same ids: those of tokenizers, of tiktoken, of chunk by chunk."""

import copy
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llm.tokenizers import BPETokenizer, _block_encoder, _blocks, _bpe_encode, _text_encoder
from llm.tokenizers._batch_merger import BatchMerger
from llm.tokenizers._block_encoder import BlockEncoder
from llm.tokenizers._pretokenize import GPT2_PATTERN, PreTokenizer, Split
from llm.tokenizers._text_encoder import TextEncoder

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def split_by(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    byte_level = {**BYTE_LEVEL, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [{**split, "invert": False}, byte_level]}


def nfc(document):
    document["normalizer"] = {"type": "NFC"}


def with_tokens_that_merging_does_not_reach(document):
    vocab = document["model"]["vocab"]
    for token in ("Ġfrench", "ĠÐ±", "ĠThe", "tion", "a" * 40, "Ġ" + "b" * 20, "ĊĊ", "ĠÐº"):
        vocab.setdefault(token, len(vocab))


def ignoring_merges(document):
    with_tokens_that_merging_does_not_reach(document)
    document["model"]["ignore_merges"] = True


def with_added_tokens(document):
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    for content, normalized in (("[tool]", False), ("[word]", True)):
        token = {"content": content, "normalized": normalized, "special": False, **flags}
        token_id = len(document["model"]["vocab"]) + (content == "[word]")
        document["added_tokens"].append({"id": token_id, **token})


VARIANTS = {
    "plain": lambda document: None,
    "bos": {"add_bos": True},
    "eos": {"add_eos": True},
    "bos and eos": {"add_bos": True, "add_eos": True},
    "NFC": nfc,
    "ignore_merges": ignoring_merges,
    "unreachable tokens": with_tokens_that_merging_does_not_reach,
    "added tokens": with_added_tokens,
    "Llama 3": lambda document: document.update(pre_tokenizer=split_by(LLAMA3)),
    "GPT-2 as a split": lambda document: document.update(pre_tokenizer=split_by(GPT2_PATTERN)),
    "prefix space": lambda document: document["pre_tokenizer"].update(add_prefix_space=True),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tokenizer, corpus, tmp_path_factory):
    """A tokenizer, and the library's of the same file."""
    change = VARIANTS[request.param]
    if isinstance(change, dict):
        ours = BPETokenizer()
        ours.train(corpus, 700, SPECIALS, show_progress=False, **change)
        return ours, Tokenizer.from_str(ours.to_json())
    document = json.loads(tokenizer.to_json())
    change(document)
    path = tmp_path_factory.mktemp("variant") / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    return BPETokenizer.load(path), Tokenizer.from_file(str(path))


@pytest.fixture
def fresh(tokenizer):
    """The tokenizer, with nothing remembered."""
    return copy.deepcopy(tokenizer)


def all_ways(tokenizer, texts, *args):
    """Ids of texts in each way there is, by its name."""
    ways = {"one by one": [tokenizer.encode(text, *args) for text in texts]}
    arrays = [tokenizer.encode_numpy(text, *args) for text in texts]
    assert all(ids.dtype == np.int32 and ids.ndim == 1 for ids in arrays)
    ways["arrays"] = [ids.tolist() for ids in arrays]
    for num_threads in (1, 2, 3):
        batch = tokenizer.encode_batch(iter(texts), *args, num_threads=num_threads)
        ways[f"batch in {num_threads} threads"] = batch
    return ways


def assert_all_ways_are(expected, ways):
    for way, batch in ways.items():
        for ids, wanted in zip(batch, expected, strict=True):
            assert ids == wanted, way
            assert isinstance(ids, list)


def assert_every_way_gives_the_ids_of_the_library(variant, texts):
    ours, library = variant
    for add_special_tokens in (True, False):
        expected = [
            library.encode(text, add_special_tokens=add_special_tokens).ids for text in texts
        ]
        assert_all_ways_are(expected, all_ways(ours, texts, add_special_tokens, "all"))


def assert_every_way_gives_the_ids_of_chunk_by_chunk(ours, texts):
    for args in ((), (False,), (True, {"<eos>"}), (False, [])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_text_encoder, "_SHORT_TEXT", 10**9)
            expected = [ours.encode(text, *args) for text in texts]
        assert_all_ways_are(expected, all_ways(ours, texts, *args))


def long_texts(corpus, hard_texts):
    russian = corpus[1] * 15
    unreachable = "\n".join(["a" * 40, " " + "b" * 20, " french"]) * 100
    decomposed = "и\u0306 e\u0301\u0323 \u1100\u1161 word " * 500
    return [
        "",
        corpus[0][:30_000],
        russian,
        decomposed,
        decomposed[:99],
        unreachable,
        unreachable[:99],
        corpus[2] * 25,
        "",
        "ё " * 3000,
        *hard_texts[:30],
    ]


def test_every_way_gives_the_ids_of_the_library(variant, corpus, hard_texts):
    if variant[1].normalizer:  # whose tables may be of another Unicode version
        hard_texts = []
    assert_every_way_gives_the_ids_of_the_library(variant, long_texts(corpus, hard_texts))


def test_every_way_gives_the_ids_of_chunk_by_chunk(variant, corpus, hard_texts):
    surrogates = [
        "a\ud800b \ud83d\ude00<eos>",
        "\udc00" * 3 + " word" * 2000,
        "\ud83d" + "<eos>\ude00",
    ]
    texts = [*long_texts(corpus, hard_texts), *surrogates]
    assert_every_way_gives_the_ids_of_chunk_by_chunk(variant[0], texts)


def test_texts_cut_in_many_places_have_the_same_ids(variant, corpus, hard_texts, monkeypatch):
    texts = ["", corpus[0][:300], corpus[1][:200], corpus[2], *hard_texts[:15], " " * 9, "\n" * 99]
    texts += ["a" * 99, " a" * 30, "\n a" * 20, "[tool] [word]a" * 9, "\ud800 " * 20, "\xa0a" * 20]
    ours = variant[0]
    expected = [ours.encode(text) for text in texts]
    specials = [ours.encode(text, False, "all") for text in texts]
    monkeypatch.setattr(_text_encoder, "_SHORT_TEXT", 0)
    for size in (1, 10):
        monkeypatch.setattr(_blocks, "BLOCK_CHARS", size)
        assert_all_ways_are(expected, all_ways(ours, texts))
        assert_all_ways_are(specials, all_ways(ours, texts, False, "all"))


@given(data=st.data())
def test_any_texts_have_the_ids_of_tiktoken_in_every_way(data, any_text, tokenizer):
    texts = data.draw(st.lists(any_text, max_size=5))
    specials = {name: tokenizer.token_to_id(name) for name in tokenizer.special_tokens}
    ranks = {
        tokenizer.decode_bytes([token_id]): token_id
        for token_id in range(len(specials), len(tokenizer))
    }
    encoding = tiktoken.Encoding(
        "ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text_encoder, "_SHORT_TEXT", 0)
        patch.setattr(_blocks, "BLOCK_CHARS", data.draw(st.sampled_from([1, 3, 1 << 18])))
        expected = [encoding.encode_ordinary(text) for text in texts]
        assert_all_ways_are(expected, all_ways(tokenizer, texts))
        expected = [encoding.encode(text, allowed_special="all") for text in texts]
        assert_all_ways_are(expected, all_ways(tokenizer, texts, True, "all"))


HOSTILE = [
    *" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff\0'.(_-07",
    *("  ", "   ", "\r\n", "'s", "'ll", "'Re", "''t", " '", "word", " the", "12", "ſ", "é", "ё"),
    *(
        " Съешь",
        "日本",
        "٣",
        "Ⅷ",
        "½",
        "x\u0302",
        "😀",
        "👩\u200d👧",
        "\U0001e900",
        "\ud800",
        "\udc00",
    ),
]


@given(texts=st.lists(st.lists(st.sampled_from(HOSTILE), max_size=25).map("".join), max_size=8))
def test_hostile_short_texts_have_the_ids_of_tiktoken(texts, tokenizer):
    offset = len(tokenizer.special_tokens)
    ranks = {
        tokenizer.decode_bytes([token_id]): token_id for token_id in range(offset, len(tokenizer))
    }
    encoding = tiktoken.Encoding(
        "ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    expected = [encoding.encode_ordinary(text) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        for most in (2, 1 << 17):  # nearly everything new, nearly everything known
            patch.setattr(_text_encoder, "_MOST_CHUNKS", most)
            for _ in range(2):
                assert [tokenizer.encode(text) for text in texts] == expected


@pytest.mark.parametrize("length", range(3995, 4005))
def test_texts_just_short_and_just_long_have_the_ids_of_tokenizers(fresh, corpus, length):
    library = Tokenizer.from_str(fresh.to_json())
    for text in (corpus[0][:length], "é" * length, " " * length):
        assert_all_ways_are([library.encode(text).ids], all_ways(fresh, [text]))


def test_whole_chunks_that_share_a_hash_keep_their_ids(tokenizer, tmp_path):
    document = json.loads(tokenizer.to_json())
    document["model"]["ignore_merges"] = True
    vocab = document["model"]["vocab"]
    chunks = ["!" * 10, " " + "!" * 9 + "\0"]
    for chunk in chunks:
        vocab[chunk.replace(" ", "Ġ").replace("\0", "Ā")] = len(vocab)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    ours = BPETokenizer.load(tmp_path)
    text = "".join(f" {number}" for number in range(10_000)) + "\n".join(chunks)
    expected = Tokenizer.from_str(json.dumps(document)).encode(text).ids
    assert_all_ways_are([expected], all_ways(ours, [text]))


# results


def test_results_belong_to_the_caller(variant, corpus):
    ours = variant[0]
    for text in ("", "a word", corpus[0][:50_000], "<eos>" * 2000):
        for args in ((), (False,), (True, "all")):
            expected = ours.encode(text, *args)
            array = ours.encode_numpy(text, *args)
            assert array.flags.writeable
            array[:] = -1
            ours.encode(text, *args).append(-1)
            for ids in ours.encode_batch([text, text], *args):
                assert ids == expected
                ids.clear()
            assert ours.encode(text, *args) == ours.encode_numpy(text, *args).tolist() == expected


def test_ids_are_python_integers(tokenizer, corpus):
    text = corpus[0][:10_000]
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch([text, "a"])):
        assert {type(token_id) for token_id in ids} == {int}


def test_a_vocabulary_beyond_16_bits_keeps_its_ids():
    # pairs of letters, then words of four of which the ids are anywhere up to 90,000
    letters = "abcdefghij"
    pairs = [(a + b).encode() for a in letters for b in letters]
    words = [first + second for first in pairs for second in pairs]
    rng = random.Random(0)
    ids = sorted(rng.sample(range(356, 90_000), len(words)))
    rng.shuffle(words)
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks.update(zip(pairs, range(256, 356), strict=True))
    ranks.update(zip(words, ids, strict=True))
    encoding = tiktoken.Encoding(
        "many", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<eos>": 90_000}
    )
    ours = BPETokenizer.from_tiktoken(encoding)
    text = b"\n".join(words).decode()
    expected = encoding.encode_ordinary(text)
    assert max(expected) > 1 << 16
    assert_all_ways_are([expected], all_ways(ours, [text]))
    assert ours.decode(expected) == ours.decode(np.array(expected)) == text


# errors


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("args", [(), (True, "all")])
def test_what_is_no_text_is_an_error(variant, num_threads, args):
    ours = variant[0]
    for bad in (b"bytes", None, 3):
        with pytest.raises(TypeError, match=f"text has to be a str, not {type(bad).__name__}"):
            ours.encode_numpy(bad, *args)
        for texts in ([bad], ["a"] * 50 + [bad], ["word " * 60_000, "a", bad]):
            message = rf"texts\[{len(texts) - 1}\] has to be a str, not {type(bad).__name__}"
            with pytest.raises(TypeError, match=message):
                ours.encode_batch(texts, *args, num_threads=num_threads)
    with pytest.raises(TypeError, match="texts is one string"):
        ours.encode_batch("text", *args, num_threads=num_threads)


@pytest.mark.parametrize("num_threads", [0, -1])
def test_fewer_threads_than_one_are_an_error(variant, num_threads):
    ours = variant[0]
    for args in ((), (True, "all")):
        for texts in ([], ["a"]):
            with pytest.raises(ValueError, match=f"num_threads={num_threads} has to be at least 1"):
                ours.encode_batch(texts, *args, num_threads=num_threads)


def test_an_unknown_special_token_is_an_error_in_every_way(tokenizer):
    for allowed in ("<eos>", {"<none>"}, ["<eos>", "tool"]):
        for encode in (tokenizer.encode, tokenizer.encode_numpy):
            with pytest.raises(ValueError, match="allowed_special"):
                encode("text", allowed_special=allowed)
        with pytest.raises(ValueError, match="allowed_special"):
            tokenizer.encode_batch(["text"], allowed_special=allowed)


def within(seconds, function):
    """Result of a function that might hang."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result(timeout=seconds)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError("of the reader"), KeyboardInterrupt()])
def test_an_error_of_the_iterable_of_texts_is_the_caller_s(fresh, corpus, num_threads, error):
    def texts():
        yield from [corpus[0]] * 30
        raise error

    with pytest.raises(type(error)):
        within(60, lambda: fresh.encode_batch(texts(), num_threads=num_threads))
    with pytest.raises(type(error)):
        within(
            60,
            lambda: BPETokenizer().train(
                texts(), 300, num_threads=num_threads, show_progress=False
            ),
        )
    assert fresh.decode_batch(fresh.encode_batch(corpus, num_threads=num_threads)) == corpus


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_byte_that_the_vocabulary_lacks_is_an_error_and_other_texts_are_encoded(
    corpus, num_threads
):
    byte_ids = [_bpe_encode.NO_TOKEN if byte == ord("~") else byte for byte in range(256)]
    pre_tokenize = PreTokenizer([Split(GPT2_PATTERN)])
    ours = TextEncoder(pre_tokenize, byte_ids, [(101, 114, 256)], whole={}, num_ids=257)
    good = corpus[0].replace("~", "-")
    merged = good.encode().split(b"er")
    expected = [[*merged[0], *(token for part in merged[1:] for token in (256, *part))], [97]]
    for bad in ("~", good + "~", "~" + good):
        for encode in (ours.encode, ours.encode_numpy):
            with pytest.raises(ValueError, match="no token for the byte 0x7e") as raised:
                encode(bad)
            assert raised.value.__context__ is None  # nothing else is said to have failed
        with pytest.raises(ValueError, match="no token for the byte 0x7e"):
            ours.encode_batch([good, bad, good], num_threads)
        assert ours.encode_batch([good, "a"], num_threads) == expected
        assert [ours.encode(good), ours.encode_numpy("a").tolist()] == expected


def test_an_interrupt_in_merging_leaves_the_tokenizer_usable(fresh, tokenizer, corpus, monkeypatch):
    merge = BatchMerger.__call__
    calls = []

    def interrupted(merger, *args):
        calls.append(1)
        if len(calls) % 2:
            raise KeyboardInterrupt
        return merge(merger, *args)

    expected = tokenizer.encode(corpus[0])
    monkeypatch.setattr(BatchMerger, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fresh.encode(corpus[0])
    assert fresh.encode(corpus[0]) == expected


# memory


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("args", [(), (True, "all")])
def test_texts_of_a_batch_are_read_one_after_another(
    fresh, counted_text, monkeypatch, num_threads, args
):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 100)

    batch = fresh.encode_batch(
        (counted_text(f"text {number}") for number in range(500)), *args, num_threads=num_threads
    )
    assert list(map(fresh.decode, batch)) == [f"text {number}" for number in range(500)]
    assert counted_text.most <= 3


@pytest.mark.parametrize("num_threads", [1, 2])
def test_texts_are_read_as_they_are_worked_on(fresh, monkeypatch, num_threads):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    encode = BlockEncoder.encode
    num_read, read_by_then = 0, []

    def texts():
        nonlocal num_read
        for number in range(2000):
            num_read += 1
            yield f"a text of number {number}"

    def watched(encoder, blocks, num_threads):
        read_by_then.append(num_read)
        return encode(encoder, blocks, num_threads)

    monkeypatch.setattr(BlockEncoder, "encode", watched)
    fresh.encode_batch(texts(), num_threads=num_threads)
    assert num_read == 2000
    assert read_by_then[0] <= 200


def test_chunks_of_short_texts_are_forgotten_and_ids_stay_the_same(fresh, tokenizer, monkeypatch):
    numbers = range(100)
    texts = [f"{number} word {number * 7} x{number} long{number}word" for number in numbers]
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(_text_encoder, "_MOST_CHUNKS", 10)
    monkeypatch.setattr(_text_encoder, "_LONGEST_KEPT_CHUNK", 2)
    known = fresh._pipeline._text_encoder._ids_of_chunk
    for text, ids in zip(texts, expected, strict=True):
        assert fresh.encode(text) == ids
        assert 0 < len(known) <= 10
        assert max(map(len, known.values())) <= 2


def test_few_encoders_are_kept_when_nobody_encodes(fresh, monkeypatch, corpus):
    encode, all_inside = BlockEncoder.encode, threading.Barrier(7, timeout=30)

    def watched(encoder, blocks, num_threads):
        all_inside.wait()
        return encode(encoder, blocks, num_threads)

    monkeypatch.setattr(BlockEncoder, "encode", watched)
    with ThreadPoolExecutor(7) as executor:
        batch = list(executor.map(fresh.encode, [corpus[0]] * 7))
    assert fresh.decode_batch(batch) == [corpus[0]] * 7
    assert len(fresh._pipeline._text_encoder._idle) == _text_encoder._MOST_IDLE < 7


# threads


def test_threads_share_a_tokenizer(fresh, tokenizer, corpus, hard_texts):
    rng = random.Random(0)
    words = corpus[0].split(" ")
    texts = [" ".join(rng.choices(words, k=rng.choice([5, 3000]))) for _ in range(60)]
    texts += [corpus[1] * 3, *hard_texts[:20]]
    expected = [tokenizer.encode(text) for text in texts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as executor:
            for _ in range(2):
                assert list(executor.map(fresh.encode, texts)) == expected
                arrays = executor.map(fresh.encode_numpy, texts)
                assert [ids.tolist() for ids in arrays] == expected
                for batch in executor.map(
                    lambda num_threads: fresh.encode_batch(texts, num_threads=num_threads),
                    [1, 2, 3],
                ):
                    assert batch == expected
    finally:
        sys.setswitchinterval(interval)


def test_threads_that_forget_each_other_s_chunks_have_the_same_ids(
    fresh, tokenizer, corpus, hard_texts, monkeypatch
):
    texts = [*corpus[0].splitlines()[:600], *corpus[1].splitlines(), *hard_texts]
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(_text_encoder, "_MOST_CHUNKS", 5)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as executor:
            loops = [
                executor.submit(lambda: [fresh.encode(text) for text in texts]) for _ in range(4)
            ]
            for loop in loops:
                assert loop.result() == expected
    finally:
        sys.setswitchinterval(interval)


def test_what_remembers_chunks_is_never_used_by_two_threads_at_once(fresh, monkeypatch, corpus):
    encode = BlockEncoder.encode
    both_inside = threading.Barrier(2, timeout=30)
    used = []

    def watched(encoder, blocks, num_threads):
        used.append(encoder)
        both_inside.wait()
        return encode(encoder, blocks, num_threads)

    monkeypatch.setattr(BlockEncoder, "encode", watched)
    for _ in range(3):
        used.clear()
        with ThreadPoolExecutor(2) as executor:
            list(executor.map(fresh.encode_numpy, [corpus[0], corpus[0]]))
        first, second = used
        assert first is not second
    # they are kept for the next time
    assert len(fresh._pipeline._text_encoder._idle) == 2


def test_a_batch_is_worked_on_by_as_many_threads_as_asked_for(fresh, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    monkeypatch.setattr(_block_encoder, "_BLOCKS_FOR_A_THREAD", 3)
    texts = ["atextwithoutspaces"] * 18
    for step in ("_find", "_ids_of"):
        original = getattr(BlockEncoder, step)
        all_inside = threading.Barrier(3, timeout=30)

        def watched(encoder, of_block, original=original, all_inside=all_inside):
            all_inside.wait()
            return original(encoder, of_block)

        monkeypatch.setattr(BlockEncoder, step, watched)
        assert fresh.decode_batch(fresh.encode_batch(texts, num_threads=3)) == texts
        monkeypatch.setattr(BlockEncoder, step, original)


# time

MILLION = 1_000_000
PATHOLOGICAL = {
    "a": lambda rng: "a" * MILLION,
    "random letters": lambda rng: "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=MILLION)),
    "spaces": lambda rng: " " * MILLION,
    "newlines": lambda rng: "\n" * MILLION,
    "wide spaces": lambda rng: "\u3000" * MILLION,
    "contractions": lambda rng: "'s" * MILLION,
    "quotes": lambda rng: "'" * MILLION,
    "distinct words": lambda rng: " ".join(map(str, range(MILLION))),
    "long words": lambda rng: " ".join(f"{number:040d}" for number in range(MILLION // 40)),
}


@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_any_text_of_megabytes_is_encoded_in_seconds(fresh, kind):
    text = PATHOLOGICAL[kind](random.Random(0))
    start = time.perf_counter()
    ids = fresh.encode_numpy(text)
    assert fresh.decode(ids) == text
    # quadratic work would be hours
    assert time.perf_counter() - start < 30


def test_a_batch_of_one_text_of_many_blocks_has_its_ids(fresh, monkeypatch):
    # as many blocks as a text of half a gigabyte has
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 1 << 10)
    text = " a" * MILLION
    assert fresh.encode_batch([text, "b", text]) == [fresh.encode(t) for t in (text, "b", text)]
