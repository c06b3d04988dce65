"""`HFTokenizerAdapter` in other processes: those that know this package, and strangers."""

import json
import pydoc_data.topics
import subprocess
import sys

import pytest
from datasets import Dataset

from hf_proxy.hf_tokenizer import HFTokenizerAdapter
from llm.tokenizers import BPETokenizer

pytestmark = pytest.mark.slow

STRANGER = """
import json, sys
sys.modules["hf_proxy"] = sys.modules["llm"] = None  # not installed
from transformers import AutoTokenizer
texts, folders = json.load(open(sys.argv[1], encoding="utf-8"))
result = []
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result.append([
        type(tokenizer).__name__,
        tokenizer(texts)["input_ids"],
        [tokenizer.decode(ids) for ids in tokenizer(texts)["input_ids"]],
        sorted(tokenizer.all_special_ids),
        [tokenizer.pad_token, tokenizer.model_max_length, tokenizer.padding_side],
    ])
json.dump(result, open(sys.argv[2], "w"))
"""

OWN = """
import json, sys
from hf_proxy.hf_tokenizer import HFTokenizerAdapter, register_tokenizer
from transformers import AutoTokenizer
register_tokenizer()
texts, folders = json.load(open(sys.argv[1], encoding="utf-8"))
tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
json.dump([
    [type(tokenizer).__name__, tokenizer([*texts, "\\ud800"])["input_ids"]]
    for tokenizer in tokenizers
], open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def llm_tokenizer():
    tokenizer = BPETokenizer()
    tokenizer.train(
        [*pydoc_data.topics.topics.values()][:20],
        vocab_size=600,
        special_tokens=["<pad>", "<unk>", "<bos>", "<eos>", "<|im_start|>"],
        add_bos=True,
        show_progress=False,
    )
    return tokenizer


@pytest.fixture(scope="module")
def texts():
    return [
        "I'll say DON'T 12345 x̂  \n\n Съешь ещё этих мягких булок\u3000",
        "<|im_start|>user\n😀 <eos><pad>",
        "".join(chr(code) for code in range(1, 0x3000)),
        *[topic[:500] for topic in [*pydoc_data.topics.topics.values()][:40]],
    ]


@pytest.fixture(scope="module")
def folders(llm_tokenizer, tmp_path_factory):
    """The tokenizer beside the configuration of every kind of model."""
    folders = []
    adapter = HFTokenizerAdapter(llm_tokenizer, model_max_length=64, padding_side="left")
    for model_type in (None, "gpt2", "openai-gpt", "llm", "llama"):
        folder = tmp_path_factory.mktemp(str(model_type))
        adapter.save_pretrained(folder)
        if model_type is not None:
            config = json.dumps({"model_type": model_type, "vocab_size": 600})
            (folder / "config.json").write_text(config, encoding="utf-8")
        folders.append(str(folder))
    return folders


def run(script, arguments, tmp_path):
    given, result = tmp_path / "given.json", tmp_path / "result.json"
    given.write_text(json.dumps(arguments), encoding="utf-8")
    subprocess.run([sys.executable, "-c", script, str(given), str(result)], check=True)
    return json.loads(result.read_text("utf-8"))


def test_a_stranger_opens_it_with_equal_ids(llm_tokenizer, texts, folders, tmp_path):
    ids = llm_tokenizer.encode_batch(texts, allowed_special="all")
    for name, stranger_ids, decoded, special_ids, options in run(
        STRANGER, [texts, folders], tmp_path
    ):
        assert name == "TokenizersBackend"
        assert stranger_ids == ids
        assert decoded == ["<bos>" + text for text in texts]
        assert special_ids == [0, 1, 2, 3, 4]
        assert options == ["<pad>", 64, "left"]


def test_a_process_that_knows_the_package_gets_the_adapter(llm_tokenizer, texts, folders, tmp_path):
    ids = llm_tokenizer.encode_batch([*texts, "\ufffd"], allowed_special="all")
    assert run(OWN, [texts, folders], tmp_path) == [["HFTokenizerAdapter", ids]] * len(folders)


def test_dataset_map_in_two_processes(llm_tokenizer, texts):
    adapter = HFTokenizerAdapter(llm_tokenizer)
    rows = Dataset.from_dict({"text": texts})
    mapped = rows.map(lambda row: adapter(row["text"]), num_proc=2)
    assert mapped["input_ids"][:] == llm_tokenizer.encode_batch(texts, allowed_special="all")
