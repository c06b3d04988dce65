"""The shard format: what is written is read, and damage is noticed by name."""

import json

import numpy as np
import pytest

from llm.core.files import write_json
from llm.data.token_shards import INDEX_FILE, ShardIndex, ShardWriter, TokenShards, token_dtype

DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6], [7, 8, 9, 10], [11]]]  # of two shards


def write(folder, shards=DOCUMENTS, vocab_size=300):
    folder.mkdir(exist_ok=True)
    written = []
    for number, documents in enumerate(shards):
        with ShardWriter(folder, f"shard-{number:05d}", vocab_size) as writer:
            for document in documents:
                writer.begin_document()
                writer.add(np.array(document))
            written.append(writer.finish())
    index = ShardIndex(
        vocab_size=vocab_size,
        dtype=token_dtype(vocab_size).name,
        tokenizer_sha256="of none",
        eos_token_id=0,
        shards=written,
    )
    write_json(folder / INDEX_FILE, index.to_dict())
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "shards")


def test_documents_are_read_as_they_were_written(folder):
    shards = TokenShards(folder)
    shards.verify()
    expected = [document for shard in DOCUMENTS for document in shard]
    assert [shards.document(i).tolist() for i in range(shards.num_documents)] == expected
    assert shards.document_lengths(np.array([4, 0, 3])).tolist() == [1, 3, 4]
    assert shards.document(3, 1, 3).tolist() == [8, 9]
    assert shards.document(3, 2, 99).tolist() == [9, 10]
    assert shards.num_tokens == 11
    for index in (-1, 5):
        with pytest.raises(IndexError, match="of 5"):
            shards.document(index)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_take_as_many_bytes_as_the_vocabulary_needs(tmp_path, vocab_size, dtype):
    write(tmp_path, [[[0, vocab_size - 1]]], vocab_size)
    ids = TokenShards(tmp_path).document(0)
    assert ids.dtype == dtype
    assert ids.tolist() == [0, vocab_size - 1]


def test_files_are_little_endian_and_nothing_else_is_left(folder):
    names = [f"shard-0000{n}.{kind}" for n in (0, 1) for kind in ("bin", "idx")]
    assert sorted(p.name for p in folder.iterdir()) == [INDEX_FILE, *names]
    assert (folder / names[0]).read_bytes() == bytes([1, 0, 2, 0, 3, 0, 4, 0])
    assert (folder / names[1]).read_bytes() == (0).to_bytes(8, "little") + (3).to_bytes(8, "little")


def test_maps_are_let_go_and_made_again(folder, monkeypatch):
    monkeypatch.setattr("llm.data.token_shards.MAPPED_BYTES", 0)
    shards = TokenShards(folder)
    assert [shards.document(i)[0] for i in (0, 4, 2, 0)] == [1, 11, 5, 1]
    assert len(shards._mapped) <= 2


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    with ShardWriter(tmp_path, "shard-00000", 300) as writer:
        writer.begin_document()
        with pytest.raises(ValueError, match="token id 300 is outside the vocabulary of 300"):
            writer.add(np.array([1, 300]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shard-00000.bin", "shard-00001.idx"])
def test_missing_short_and_long_files_are_named_on_open(folder, name):
    path = folder / name
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} has {len(damaged)} bytes"):
            TokenShards(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        TokenShards(folder)
    path.mkdir()
    with pytest.raises(ValueError, match=f"{name} is missing, or not a file"):
        TokenShards(folder)


def test_every_flipped_bit_is_found_by_verify(folder):
    for path in sorted(folder.glob("shard-*")):
        content = bytearray(path.read_bytes())
        for bit in range(len(content) * 8):
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{path.name} is damaged"):
                TokenShards(folder).verify()
            content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)


def test_an_impossible_document_index_is_refused_when_it_is_used(folder):
    (folder / "shard-00000.idx").write_bytes(b"\0" * 8 + b"\xff" * 8)
    with pytest.raises(ValueError, match=r"shard-00000\.idx is damaged"):
        TokenShards(folder).document(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format=2"),
        ({"dtype": "float32"}, "dtype='float32'"),
        ({"dtype": "uint32"}, "dtype='uint32' does not fit vocab_size=300"),
        ({"vocab_size": "many"}, "vocab_size='many'"),
        ({"vocab_size": 10**30}, "more than 2"),
        ({"tokenizer_sha256": 5}, "tokenizer_sha256=5"),
        ({"eos_token_id": 300}, "eos_token_id=300"),
        ({"shards": []}, "lists no shards"),
        ({"shards": None}, "no list of shards"),
        ({"shards": [5]}, "not an object"),
        ({"surprise": 1}, "no field 'surprise'"),
    ],
)
def test_a_wrong_index_is_refused(folder, changes, message):
    content = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**content, **changes}))
    with pytest.raises(ValueError, match=message) as raised:
        TokenShards(folder)
    assert str(folder / INDEX_FILE) in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../shard-00000"}, "not the name of a file"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": True}, "tokens=True"),
        ({"documents": 5}, "documents=5 are more than tokens=4"),
        ({"sha256": None}, "sha256=None"),
    ],
)
def test_a_wrong_shard_in_the_index_is_refused(folder, changes, message):
    content = json.loads((folder / INDEX_FILE).read_text())
    content["shards"][0].update(changes)
    (folder / INDEX_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        TokenShards(folder)


def test_no_index_and_no_json_are_refused(folder):
    (folder / INDEX_FILE).write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="not valid JSON"):
        TokenShards(folder)
    (folder / INDEX_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        TokenShards(folder)


def test_fingerprints_tell_tokens_and_documents_apart(tmp_path):
    corpora = [[[[1, 2, 3]]], [[[1, 2, 4]]], [[[1, 2], [3]]], [[[1], [2, 3]]]]
    prints = {
        TokenShards(write(tmp_path / f"{i}", shards)).fingerprint()
        for i, shards in enumerate(corpora)
    }
    assert len(prints) == 4
