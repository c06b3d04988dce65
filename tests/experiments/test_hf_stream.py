"""stream_texts: a dataset's texts, row by row."""

import json

import pytest

from experiments.shared.hf_data import stream_texts


def test_texts_of_a_local_file_are_streamed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {i}"}) + "\n" for i in range(5)))
    assert list(stream_texts(str(path), "body")) == [f"text {i}" for i in range(5)]
    with pytest.raises(ValueError, match=r"row 0 has no text in the column 'text'; it has body"):
        list(stream_texts(str(path), "text"))


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        list(stream_texts(str(tmp_path / "nowhere.jsonl"), "text"))
