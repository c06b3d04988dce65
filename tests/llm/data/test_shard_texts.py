"""write_shards: the same bytes however it is run, and however often it is stopped."""

import itertools
import os
import random
import re

import pytest

from llm.data import ShardsInUseError, TextFile, TokenShards, shard_texts, write_shards
from llm.tokenizers import BPETokenizer

WORDS = ["the", "cat", "sat", "on", "mat", "собака", "42", "a_b", "don't", "\n\n", "😀", "  ", ","]


def corpus(number=60, seed=0):
    random.seed(seed)
    return [" ".join(random.choices(WORDS, k=random.randint(0, 60))) for _ in range(number)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(documents, tokenizer, folder, **options):
    options = {"shard_tokens": 500, "show_progress": False, **options}
    return write_shards(documents, tokenizer, folder, **options)


def read(shards):
    return [shards.document(i).tolist() for i in range(shards.num_documents)]


class StoppedError(Exception):
    pass


def test_shards_hold_every_document_in_order(tokenizer, tmp_path):
    texts = corpus()
    shards = write(["", *texts, ""], tokenizer, tmp_path)
    shards.verify()
    assert read(shards) == [tokenizer.encode(text, False) for text in texts if text]
    assert len(shards.index.shards) > 3
    assert all(shard.tokens >= 500 for shard in shards.index.shards[:-1])
    assert shards.index.tokenizer_sha256 == tokenizer.fingerprint()
    assert shards.index.eos_token_id == tokenizer.eos_token_id


def test_processes_change_nothing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", 700)
    monkeypatch.setattr(shard_texts, "CUT_WINDOW", 100)
    texts = [*corpus(30), " ".join(corpus(60, seed=1))]
    write(texts, tokenizer, tmp_path / "one")
    write(texts, tokenizer, tmp_path / "three", num_workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_pieces_of_a_long_text_make_the_tokens_of_the_whole(tokenizer, tmp_path, monkeypatch):
    text = " ".join(corpus(80))
    whole = tokenizer.encode(text, False)
    for size in (300, 500, 1000):
        monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", size)
        assert read(write([text], tokenizer, tmp_path / f"{size}")) == [whole]
        # however the parts come
        random.seed(size)
        cuts = [0, *sorted(random.sample(range(len(text)), 20)), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
        assert contents(write([parts], tokenizer, tmp_path / f"p{size}").folder) == contents(
            tmp_path / f"{size}"
        )


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k_base", "o200k_base", "llama3", "qwen2"])
def test_text_without_spaces_is_cut_between_its_lines(pattern, monkeypatch):
    random.seed(0)
    signs = ["子曰", "學而時習之", "42", "“", "！\n", "。\n", "\n", "\r\n", "\u3000"]
    text = "".join(random.choices(signs, k=4000))
    tokenizer = BPETokenizer()
    tokenizer.train([text], 400, pattern=pattern, show_progress=False)
    whole = tokenizer.encode(text, False)
    monkeypatch.setattr(shard_texts, "CUT_WINDOW", 200)
    for size in (250, 333, 700):
        monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", size)
        pieces = list(shard_texts.text_pieces(text))
        assert "".join(pieces) == text
        assert all(piece.endswith("\n") for piece in pieces[:-1])
        assert [id for piece in pieces for id in tokenizer.encode(piece, False)] == whole


def test_a_gigantic_word_is_cut_and_nothing_is_lost(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", 64)
    (ids,) = read(write(["кот" * 1000], tokenizer, tmp_path))
    assert tokenizer.decode(ids) == "кот" * 1000


@pytest.mark.parametrize("stop_at", [1, 20, 45, 59])
def test_a_stopped_call_goes_on_to_the_same_bytes(tokenizer, tmp_path, stop_at, monkeypatch):
    texts = corpus()
    write(texts, tokenizer, tmp_path / "whole")

    def stopping():
        yield from texts[:stop_at]
        raise StoppedError

    with pytest.raises(StoppedError):
        write(stopping(), tokenizer, tmp_path / "again")
    with pytest.raises(FileNotFoundError, match="not finished"):
        TokenShards(tmp_path / "again")
    kept = list((tmp_path / "again").glob("*.bin"))
    encoded = []
    monkeypatch.setattr(
        type(tokenizer), "encode_numpy", counting(type(tokenizer).encode_numpy, encoded)
    )
    write(texts, tokenizer, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    # what was whole was not encoded again
    assert (len(encoded) < len(texts)) == bool(kept)


def counting(encode, calls):
    def count(self, text, *arguments, **options):
        calls.append(text)
        return encode(self, text, *arguments, **options)

    return count


@pytest.mark.parametrize("call", range(1, 26))
def test_a_failure_at_any_file_operation_is_mended_by_another_call(
    tokenizer, tmp_path, call, monkeypatch
):
    texts = corpus(20)
    write(texts, tokenizer, tmp_path / "whole")
    calls = 0

    def failing(operation):
        def fail(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(28, "No space left on device")
            return operation(*arguments)

        return fail

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace))
        patch.setattr(os, "fsync", failing(os.fsync))
        with pytest.raises(OSError, match="No space"):
            write(texts, tokenizer, tmp_path / "again")
    write(texts, tokenizer, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_damaged_shard_is_written_again(tokenizer, tmp_path, caplog):
    write(corpus(), tokenizer, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.bin").write_bytes(b"short")
    write(corpus(), tokenizer, tmp_path)
    assert contents(tmp_path) == before
    assert "shard-00001.bin has 5 bytes" in caplog.text


def test_a_corpus_that_has_grown_is_as_if_written_at_once(tokenizer, tmp_path):
    write(corpus()[:40], tokenizer, tmp_path / "grown")
    write(corpus(), tokenizer, tmp_path / "grown")
    write(corpus(), tokenizer, tmp_path / "whole")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_other_text_tokenizer_or_size_is_refused(tokenizer, tmp_path):
    write(corpus(), tokenizer, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="begun with other text"):
        write(corpus(seed=1), tokenizer, tmp_path)
    with pytest.raises(ValueError, match="shard_tokens=500, not 400"):
        write(corpus(), tokenizer, tmp_path, shard_tokens=400)
    other = type(tokenizer)()
    other.train(["other text for it"], 280, ["<pad>", "<eos>"], show_progress=False)
    with pytest.raises(ValueError, match="vocab_size"):
        write(corpus(), other, tmp_path)
    assert contents(tmp_path) == before


def test_other_text_does_not_replace_shards_that_were_never_full(tokenizer, tmp_path):
    write(corpus(5), tokenizer, tmp_path, shard_tokens=10**6)
    before = contents(tmp_path)
    for other in (corpus(5, seed=1), corpus(4), corpus(seed=1)):
        with pytest.raises(ValueError, match="begun with other text"):
            write(other, tokenizer, tmp_path, shard_tokens=10**6)
        assert contents(tmp_path) == before
    write([*corpus(5), "more"], tokenizer, tmp_path, shard_tokens=10**6)
    assert TokenShards(tmp_path).num_documents == sum(map(bool, corpus(5))) + 1


def test_two_processes_do_not_write_into_one_folder(tokenizer, tmp_path):
    def documents():
        yield "the cat"
        with pytest.raises(ShardsInUseError, match="another process writes into"):
            write(corpus(), tokenizer, tmp_path)
        yield "the dog"

    assert write(documents(), tokenizer, tmp_path).num_documents == 2


def test_files_that_the_index_does_not_list_are_deleted(tokenizer, tmp_path):
    write(corpus(), tokenizer, tmp_path / "new")
    (tmp_path / "old").mkdir()
    for name in ("shard-00099.bin", "shard-00099.idx", ".shard-00098.bin.tmp"):
        (tmp_path / "old" / name).write_bytes(b"left by an older work")
    write(corpus(), tokenizer, tmp_path / "old")
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


def test_a_folder_of_something_else_is_refused(tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        write(corpus(), tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("documents", "options", "error", "message"),
    [
        ("text", {}, TypeError, "one string"),
        (["", ""], {}, ValueError, "no text"),
        ([], {}, ValueError, "no text"),
        (["a"], {"num_workers": 0}, ValueError, "num_workers=0"),
        (["a"], {"shard_tokens": -1}, ValueError, "shard_tokens=-1"),
    ],
)
def test_bad_arguments_are_refused(tokenizer, tmp_path, documents, options, error, message):
    with pytest.raises(error, match=message):
        write(documents, tokenizer, tmp_path, **options)


def test_files_are_read_in_parts(tmp_path, monkeypatch):
    text = "кошка 😀 cat\r\n" * 50
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    for size in (1, 2, 3, 7, 10_000):
        monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", size)
        assert "".join(TextFile(path)) == text


@pytest.mark.parametrize("size", [1, 5, 16, 1000])
@pytest.mark.parametrize(("tail", "byte"), [(b"\xff", 24), (b"\xd0", 24), (b"\xd0a", 24)])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, monkeypatch, size, tail, byte):
    path = tmp_path / "binary"
    path.write_bytes("кошка ок cat ".encode() + b"abcd" + tail)
    assert len("кошка ок cat abcd".encode()) == byte
    monkeypatch.setattr(shard_texts, "PIECE_CHARACTERS", size)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not UTF-8 text: byte {byte} ")):
        list(TextFile(path))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a regular file"):
        list(TextFile(tmp_path))
