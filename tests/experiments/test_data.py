"""Reading and splitting text."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.shared.data import (
    Document,
    built_in_corpus,
    fingerprint,
    read_documents,
    read_text,
    split_documents,
)


def names(documents, root):
    return [document.name.removeprefix(f"{root}/") for document in documents]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("Бета", "utf-8")
    (tmp_path / "a.md").write_text("alpha", "utf-8")
    (tmp_path / "sub" / "c.txt").write_text("gamma", "utf-8")
    (tmp_path / "sub" / "empty.txt").touch()
    (tmp_path / "sub" / ".git" / "config").write_text("hidden", "utf-8")
    (tmp_path / ".hidden").write_text("hidden", "utf-8")
    return tmp_path


def test_a_folder_is_read_whole_and_in_order_without_what_is_hidden(folder):
    documents = read_documents([str(folder)])
    assert names(documents, folder) == ["a.md", "b.txt", "sub/c.txt"]
    assert [document.text for document in documents] == ["alpha", "Бета", "gamma"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.txt", ["b.txt"]), ("**/*.txt", ["b.txt", "sub/c.txt"]), ("[ab].*", ["a.md", "b.txt"])],
)
def test_globs(folder, pattern, expected):
    assert names(read_documents([f"{folder}/{pattern}"]), folder) == expected


def test_a_file_named_twice_is_read_once(folder):
    documents = read_documents([f"{folder}/b.txt", str(folder), f"{folder}/sub/../b.txt"])
    assert names(documents, folder) == ["b.txt", "a.md", "sub/c.txt"]


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeffпервая\r\nвторая\n\ufeff".encode())
    assert read_text(path) == "первая\r\nвторая\n\ufeff"


@pytest.mark.parametrize(
    ("content", "byte"), [("да".encode("cp1251"), 0), (b"fine\xff", 4), (b"cut \xd0", 4)]
)
def test_what_is_not_utf8_names_the_file_and_the_byte(tmp_path, content, byte):
    path = tmp_path / "old.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"old\.txt is not UTF-8 text: byte {byte} is 0x"):
        read_documents([str(path)])


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist"):
        read_documents([str(tmp_path / "nowhere.txt")])
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.tex"):
        read_documents([str(tmp_path / "*.tex")])
    with pytest.raises(FileNotFoundError, match="has no files"):
        read_documents([str(tmp_path)])


def test_a_subfolder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="sub"):
        read_documents([str(folder)])


@pytest.mark.parametrize("kind", ["pipe", "broken link"])
def test_what_may_never_end_or_begin_is_refused(folder, kind):
    path = folder / "sub" / "strange"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(folder / "nowhere")
    with pytest.raises(ValueError, match="strange is not a regular file"):
        read_documents([str(folder)])


def test_only_empty_files_are_an_error(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="only empty files"):
        read_documents([str(tmp_path)])


def test_the_built_in_corpus_is_real_prose_and_repeats_no_paragraph():
    documents = built_in_corpus()
    assert len(documents) > 50
    assert sum(len(document.text) for document in documents) > 300_000
    paragraphs = [
        " ".join(paragraph.split())
        for document in documents
        for paragraph in document.text.split("\n\n")
    ]
    long = [paragraph for paragraph in paragraphs if len(paragraph) > 40]
    assert len(long) == len(set(long))
    assert read_documents([]) == documents


documents_strategy = st.lists(
    st.text(st.sampled_from("ab \nж"), min_size=1, max_size=60), min_size=1, max_size=15
).map(lambda texts: [Document(str(i), text) for i, text in enumerate(texts)])


@settings(deadline=None, max_examples=300)
@given(
    documents=documents_strategy,
    fraction=st.floats(0.05, 0.95),
    by=st.sampled_from(["auto", "document", "position"]),
    seed=st.integers(0, 5),
)
def test_no_character_is_lost_or_in_both_parts(documents, fraction, by, seed):
    def split():
        return split_documents(documents, validation_fraction=fraction, by=by, seed=seed)

    try:
        train, validation = split()
    except ValueError as error:
        if "one side would be empty" not in str(error):
            raise
        return
    assert split() == (train, validation)
    assert train
    assert validation
    whole = "".join(document.text for document in documents)
    if by == "position" or (by == "auto" and len(documents) < 10):
        assert "".join(train) + "".join(validation) == whole
    else:
        assert sorted(train + validation) == sorted(document.text for document in documents)
    assert sum(map(len, validation)) <= fraction * len(whole) + 1e-6


def test_another_seed_holds_other_documents_out():
    documents = built_in_corpus()
    parts = [
        split_documents(documents, validation_fraction=0.1, by="document", seed=seed)[1]
        for seed in (0, 1)
    ]
    assert parts[0] != parts[1]
    total = sum(len(document.text) for document in documents)
    for part in parts:
        assert 0.08 * total < sum(map(len, part)) <= 0.1 * total


def test_one_document_is_cut_at_a_line():
    text = "".join(f"line {i}\n" for i in range(100))
    train, validation = split_documents(
        [Document("one", text)], validation_fraction=0.2, by="auto", seed=0
    )
    assert train[0].endswith("\n")
    assert train[0] + validation[0] == text


def test_fingerprint_tells_bounds_apart():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["ab", "c"]) == fingerprint(iter(["ab", "c"]))
