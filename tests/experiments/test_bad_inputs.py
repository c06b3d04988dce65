"""Bad texts, settings files, places, runs and shards: each script answers in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.shared.configs import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "llm_only.train_gpt_bpe"
GENERATE = "llm_only.generate_gpt_bpe"
PREPARE = "llm_only.prepare_data"
HF_SIMPLE = "hf_integration.simple_hf_training"
HF_TRAINER = "hf_integration.train_with_hf_trainer"
HF_GENERATE = "hf_integration.generate_with_hf_tools"
SMALL = [
    *("--vocab-size", "300", "--embed-dim", "16", "--num-heads", "2", "--num-layers", "1"),
    *("--max-position-embeddings", "32", "--batch-size", "2", "--max-new-tokens", "4"),
    *("--device", "cpu", "--steps", "2"),
]


def cases(*rows):
    """A parameter for each row, named by what it gives."""
    named = []
    for row in rows:
        what = " ".join(str(value) for value in row[:-1]).encode("ascii", "replace").decode()
        named.append(pytest.param(*row, id=what[:60]))
    return named


TEXTS = cases(
    ("nowhere.txt", r"nowhere\.txt does not exist: .*files, folders and globs"),
    ("", "an empty name does not exist"),
    ("no-such-folder/", "no-such-folder.* does not exist"),
    ("*.tex", r"no file matches \*\.tex"),
    ("**/*.tex", r"no file matches"),
    ("[", r"\[ does not exist|no file matches \["),
    ("empty.txt", r"empty\.txt: there is no text, only empty files|every document is empty"),
    ("empty-folder", "empty-folder has no files"),
    ("hidden", "hidden has no files"),
    ("blank", "blank: there is no text, only empty files|every document is empty"),
    ("nothing", "nothing is not a regular file"),
    ("zeros", "zeros is not a regular file"),
    ("pipe", "pipe is not a regular file"),
    ("piped", r"pipe\.txt is not a regular file"),
    ("/dev/zero", "zero is not a regular file"),
    ("loop", "loop.*(does not exist|symbolic links|is not a regular file)"),
    ("looped", r"loop\.txt is not a regular file|symbolic links: .*loop\.txt"),
    ("dangling", "dangling (does not exist|is not a regular file)"),
    ("binary.bin", r"binary\.bin is not UTF-8 text: byte \d+ is 0x80; convert"),
    ("mixed", r"photo\.jpg is not UTF-8 text: byte 0 is 0xff; .*name only the text files"),
    ("cyrillic.txt", r"cyrillic\.txt is not UTF-8 text: byte 0 is 0xca; convert"),
    ("utf-16.txt", r"utf-16\.txt is not UTF-8 text: byte 0 is 0xff; convert"),
    ("cut.txt", r"cut\.txt is not UTF-8 text: byte \d+ is 0xd1"),
    ("x" * 5000, "File name too long|does not exist"),
    ("a\0b", "holds a NUL character"),
    ("good.txt/inside", "inside does not exist"),
)


@pytest.mark.parametrize(("data", "message"), TEXTS)
def test_train_says_what_is_wrong_with_a_text(refused, data, message):
    refused(TRAIN, "--data", data, *SMALL, message=message)


@pytest.mark.parametrize(("data", "message"), TEXTS)
def test_prepare_says_what_is_wrong_with_a_text(refused, trained, workspace, data, message):
    out = ["--tokenizer", "trained", "--out", "out"]
    refused(PREPARE, "--data", data, *out, message=message)
    assert not (workspace / "out").exists()


@pytest.mark.parametrize(("data", "message"), TEXTS[::4])
@pytest.mark.parametrize("script", [HF_SIMPLE, HF_TRAINER])
def test_huggingface_scripts_say_what_is_wrong_with_a_text(refused, script, data, message):
    refused(script, "--data", data, *SMALL, message=message)


@pytest.mark.parametrize(
    ("data", "message"),
    cases(
        ("tiny.txt", "one side would be empty; use more text"),
        ("short.txt", r"text (is too short|has \d+ tokens).*give more text"),
        ("gigantic.txt", r"gigantic\.txt.* has 1,?\d+.* GB.*prepare_data\.py"),
    ),
)
@pytest.mark.parametrize("script", [TRAIN, HF_SIMPLE])
def test_a_text_of_the_wrong_size_is_refused(refused, script, data, message):
    if script == HF_SIMPLE and data == "short.txt":
        # a text may be an example of any length there
        return
    # a vocabulary of bytes: that it is small is not worth a warning
    refused(script, "--data", data, *SMALL, "--vocab-size", "260", message=message)


def test_a_text_shorter_than_the_context_is_refused(refused):
    refused(
        *(TRAIN, "--data", "good.txt", *SMALL, "--max-position-embeddings", "100000"),
        message=r"training text .*\d+ tokens.*100000.*--max-position-embeddings",
    )


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file nobody can read")
@pytest.mark.parametrize("script", [TRAIN, PREPARE])
def test_an_unreadable_text_is_named(refused, trained, script):
    extra = ["--tokenizer", "trained", "--out", "out"] if script == PREPARE else SMALL
    refused(
        script, "--data", "/proc/self/mem", *extra, message="Input/output error: /proc/self/mem$"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_text_is_named(refused, workspace):
    path = workspace / "forbidden.txt"
    path.write_text("secret")
    path.chmod(0)
    try:
        refused(TRAIN, "--data", path, message="Permission denied: .*forbidden")
    finally:
        path.chmod(0o600)
        path.unlink()


ARGUMENTS = cases(
    (["--model", "gpt3"], "gpt3"),
    (["--model", ""], "--model"),
    (["--optimizer", "adamax"], "adamax"),
    (["--schedule", "constant"], "constant"),
    (["--split", "random"], "random"),
    (["--on-bad-step", "ignore"], "ignore"),
    (["--device", "tpu"], "device='tpu' is not one of auto, cpu, cuda"),
    (["--device", "cuda:99"], "'cuda:99' cannot be used here"),
    (["--device", "cpu:0:1"], "device='cpu:0:1' is not one of"),
    (["--overwrite"], "--overwrite needs --run"),
    (["--overwrite=yes"], "Unrecognized options: yes"),
    (["--document-mask"], "--document-mask needs --shards"),
    (["--data", "good.txt", "--shards", "shards"], "exclude one another"),
    (["--shards", "nowhere"], r"nowhere has no tokenizer\.json: prepare_data"),
    (["--shards", "good.txt"], r"good\.txt has no tokenizer\.json"),
    (["--shards", "runs/trained/final"], r"train does not exist: prepare_data\.py"),
    (["--steps", "10", "--stepz", "3"], "Unrecognized options: --stepz"),
    (["-x"], "-x"),
    (["surplus"], "surplus"),
    (["--steps"], "--steps"),
    (["--steps", "1", "2"], "2"),
    (["--config"], "--config"),
    (["--num-heads", "3"], "embed_dim=128 is not divisible by num_heads=3"),
    (["--stop", ""], "a stop string is empty"),
    (["--run", "a/b"], "run='a/b' must be a plain name"),
    (["--run", "../x"], "run='../x' must be a plain name"),
    (["--run", ".."], "run='..' must be a plain name"),
    (["--run", "."], r"run='\.' must be a plain name"),
    (["--run", "/"], "run='/' must be a plain name"),
    (["--run", "/tmp/x"], "run='/tmp/x' must be a plain name"),
    (["--run", "x\0y"], "holds a NUL character"),
    (["--run", "x\ny"], "run=.* must be a plain name"),
    (["--run", "x" * 300], "run=.* is too long"),
    (["--run", "кот" * 50], "run=.* is too long"),
    (["--run", "r\udcff"], "is not valid UTF-8"),
    (["--prompt", "x\udcff"], "is not valid UTF-8"),
    (["--data", "x\udcff"], "is not valid UTF-8"),
    (["--prompt", ""], "the prompt '' has 0 tokens"),
    (
        ["--prompt", "cat " * 99, "--data", "good.txt", *SMALL],
        r"the prompt 'cat .* has \d+ tokens.*32",
    ),
    (["--allow-changed", "seed"], "--allow-changed needs --resume|goes with --resume"),
)


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_train_answers_a_wrong_argument(refused, trained, arguments, message):
    refused(TRAIN, *arguments, message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--embed-dim", "999999996"], "embed_dim=999999996.*parameters.*GB"),
        (["--embed-dim", "1000000", "--num-heads", "1"], "embed_dim=1000000.*parameters.*GB"),
        (["--num-layers", "1000000"], "num_layers=1000000.*parameters.*GB"),
        (["--num-layers", "1000000000"], "num_layers=1000000000.*parameters.*GB"),
        (["--vocab-size", "1000000000"], "vocab_size=1000000000.*parameters.*GB"),
        (["--max-position-embeddings", "1000000000"], "max_position_embeddings=1.*GB"),
        (["--batch-size", "1000000000"], "batch_size=1000000000.*GB"),
        (["--batch-size", "10000000"], "batch_size=10000000.*GB"),
        (["--accumulation-steps", "1000000000"], "accumulation_steps=1000000000.*GB"),
        (["--max-new-tokens", "1000000000000"], "max_new_tokens=1000000000000 must be"),
        (["--vocab-size", "1000000000000"], "vocab_size=1000000000000 must be"),
    ),
)
def test_a_size_that_no_memory_holds_is_refused_with_the_numbers(refused, arguments, message):
    refused(TRAIN, *arguments, message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--embed-dim", "999999996"], "embed_dim=999999996.*parameters.*GB"),
        (["--num-layers", "1000000"], "num_layers=1000000.*parameters.*GB"),
        (["--vocab-size", "1000000000"], "vocab_size=1000000000.*parameters.*GB"),
        (["--max-position-embeddings", "1000000000"], "max_position_embeddings=1.*GB"),
        (["--prompt", ""], "the prompt '' has 0 tokens"),
        (["--prompt", "cat " * 99], r"has \d+ tokens: 1 to 34 fit"),
        (["--max-new-tokens", "64"], "max_new_tokens=64 leaves no room"),
        (["--dataset", "a/b", "--data", "good.txt"], "exclude one another"),
        (["--dataset", "nowhere/nothing"], "--dataset nowhere/nothing cannot be read"),
        (["--dataset", "not.jsonl"], r"--dataset not\.jsonl cannot be read"),
        (["--dataset", "a.jsonl"], "has no column 'text'; it has body"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--run", "a/b"], "must be a plain name"),
    ),
)
@pytest.mark.parametrize("script", [HF_SIMPLE, HF_TRAINER])
def test_huggingface_scripts_answer_a_wrong_argument(refused, script, arguments, message):
    refused(script, *arguments, message=message)


BASE = (CONFIGS / "gpt_small.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    cases(
        (b"", "needs .*run.*model"),
        (b"\0", "is not valid TOML"),
        (b"[model", "is not valid TOML"),
        (b"run = ", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML.*utf-8"),
        (BASE.encode("utf-16"), "is not valid TOML"),
        (b"x = " + b"[" * 99999, "nested too deeply"),
        (b"x = " + b"1" * 9999, "is not valid TOML: Exceeds the limit"),
        ((BASE + "\n[training]\nsteps = 1\n").encode(), "is not valid TOML"),
        (BASE.replace("steps =", "stepz =").encode(), "no field 'stepz'; did you mean 'steps'"),
        (BASE.replace("[model]", "[modell]").encode(), "did you mean 'model'"),
        (BASE.replace("[model]", "[[model]]").encode(), r"model must be a table, \[model\]"),
        (BASE.replace("steps = 700", "").encode(), r"\[training\] needs steps"),
        (b"model = 3\n" + BASE.replace("[model]", "[x]").encode(), "must be a table|no field"),
        (b'config = "x"\n' + BASE.encode(), "no field 'config'|config"),
        (b"resume = 3\n" + BASE.encode(), "resume=3 must be text"),
        (b'shards = "x"\n' + BASE.encode(), "no field 'shards'"),
        (b"\x00\x01\x02" * 999, "is not valid TOML"),
        ((CONFIGS / "generate.toml").read_bytes(), "no field 'compare'"),
        ((CONFIGS / "hf_trainer.toml").read_bytes(), "no field '"),
    ),
)
def test_a_wrong_settings_file_is_named(refused, tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    refused(TRAIN, "--config", path, "--data", "nowhere", message=rf"mine\.toml.*({message})")


@pytest.mark.parametrize(
    ("path", "message"),
    cases(
        ("nowhere.toml", r"nowhere\.toml does not exist"),
        ("", "--config"),
        ("runs", "--config runs is not a regular file, but a folder"),
        ("pipe", "--config pipe .*not a regular file"),
        ("zeros", "--config zeros .*not a regular file"),
        ("loop", "--config loop .*(cannot be read|does not exist)"),
        ("dangling", "dangling does not exist"),
        ("a\0b", "holds a NUL character"),
        ("x" * 5000, "--config x+ cannot be read"),
        ("good.txt", r"good\.txt is not valid TOML"),
        ("gigantic.txt", r"gigantic\.txt.*(too large|bytes)"),
    ),
)
@pytest.mark.parametrize("script", [TRAIN, GENERATE])
def test_a_settings_file_that_is_none_is_named(refused, script, path, message):
    refused(script, "--config", path, message=message)


def test_places_that_cannot_hold_runs(refused, workspace):
    for place in ("good.txt", "dangling", "loop", "pipe", "good.txt/runs", "zeros"):
        refused(
            *(TRAIN, "--data", "good.txt", *SMALL),
            checkpoints=workspace / place,
            message="the run folder .* cannot be made: ",
        )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place root cannot write to")
@pytest.mark.parametrize("script", [TRAIN, HF_SIMPLE, HF_TRAINER])
def test_a_place_that_is_forbidden(refused, script):
    refused(
        *(script, "--data", "good.txt", *SMALL),
        checkpoints=Path("/proc/self/runs"),
        message="the run folder .* cannot be made: ",
    )


def make_place(workspace, kind):
    """Something in the place of a run."""
    path = workspace / "runs" / "taken"
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to("taken")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "elsewhere":
        path.symlink_to(workspace / "texts")
    elif kind == "notes":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif kind == "notes in a run":
        shutil.copytree(workspace / "runs" / "trained", path)
        (path / "notes.txt").write_text("mine")
    elif kind == "link in a run":
        shutil.copytree(workspace / "runs" / "trained", path)
        (path / "step-000009").symlink_to(workspace / "texts")
    elif kind == "a run":
        shutil.copytree(workspace / "runs" / "trained", path)
    return path


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


@pytest.mark.parametrize(
    "kind",
    ["file", "dangling", "loop", "pipe", "elsewhere", "notes", "notes in a run", "link in a run"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_in_the_place_of_a_run_is_left_alone(refused, trained, workspace, kind, overwrite):
    path = make_place(workspace, kind)
    try:
        refused(
            *(TRAIN, "--run", "taken", "--data", "good.txt", *SMALL),
            *["--overwrite"] * overwrite,
            message=r"taken.*(exists already: choose another --run|cannot be made|left alone)",
        )
    finally:
        remove(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--prompt", "cat " * 99], "the prompt 'cat"),
        (["--embed-dim", "100000000"], "embed_dim=100000000"),
        (["--max-position-embeddings", "100000"], "less than one context"),
        (["--device", "cuda:99"], "cuda:99"),
    ),
)
def test_a_mistake_beside_overwrite_does_not_cost_the_run(refused, trained, arguments, message):
    refused(
        *(TRAIN, "--run", "trained", "--overwrite", "--data", "good.txt", *SMALL, *arguments),
        message=message,
    )


@pytest.mark.parametrize("script", [TRAIN, HF_SIMPLE, HF_TRAINER])
def test_a_run_is_not_written_over(refused, trained, script):
    refused(
        *(script, "--run", "trained", "--data", "good.txt", *SMALL),
        message="trained exists already: choose another --run",
    )


# what is done to a copy of the run, and what is said then
def write(name, content):
    def change(run):
        path = run / name
        remove(path)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return change


def change_json(name, *keys, value):
    def change(run):
        content = json.loads((run / name).read_bytes())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (run / name).write_text(json.dumps(content), "utf-8")

    return change


def drop_key(name, *keys):
    def change(run):
        content = json.loads((run / name).read_bytes())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        (run / name).write_text(json.dumps(content), "utf-8")

    return change


def drop(name):
    return lambda run: remove(run / name)


def link(name, target):
    def change(run):
        remove(run / name)
        (run / name).symlink_to(target)

    return change


def pipe(name):
    def change(run):
        remove(run / name)
        os.mkfifo(run / name)

    return change


def folder(name):
    def change(run):
        remove(run / name)
        (run / name).mkdir()

    return change


def grow(name):
    def change(run):
        with open(run / name, "r+b") as file:
            file.truncate(1 << 40)

    return change


def header(name, **entries):
    """A safetensors file with a header that says what is not there."""

    def change(run):
        text = json.dumps(entries).encode()
        (run / name).write_bytes(len(text).to_bytes(8, "little") + text)

    return change


WEIGHTS = "final/model.safetensors"
CONFIG = "final/config.json"
TOKENIZER = "final/tokenizer.json"
HUGE = {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}


@pytest.fixture
def hurt(trained, workspace):
    """A copy of the run to do harm to; it is gone afterwards."""
    path = workspace / "runs" / "hurt"
    shutil.copytree(trained, path)
    yield path
    remove(path)


MODELS = cases(
    (drop(CONFIG), r"config\.json"),
    (write(CONFIG, b""), r"config\.json is not valid JSON"),
    (write(CONFIG, b"\xff\xfe"), r"config\.json is not valid JSON"),
    (write(CONFIG, b"[" * 99999), r"config\.json .*nested too deeply"),
    (write(CONFIG, []), r"config\.json holds a JSON list"),
    (write(CONFIG, {}), r"config\.json has no 'model_type'"),
    (write(CONFIG, {"model_type": "bert"}), "model of type 'bert'; known are"),
    (write(CONFIG, {"model_type": ["gpt2"]}), "'model_type'"),
    (pipe(CONFIG), r"config\.json"),
    (link(CONFIG, "/dev/zero"), r"config\.json"),
    (link(CONFIG, "config.json"), r"config\.json"),
    (folder(CONFIG), r"config\.json"),
    (grow(CONFIG), r"config\.json"),
    (change_json(CONFIG, "n_layer", value=10**9), r"(config\.json|safetensors).*"),
    (change_json(CONFIG, "n_layer", value=-1), "num_layers=-1|n_layer=-1"),
    (change_json(CONFIG, "n_layer", value=1e30), "num_layers=1e\\+30|n_layer"),
    (change_json(CONFIG, "n_layer", value="one"), "num_layers='one'|n_layer"),
    (change_json(CONFIG, "n_layer", value=2), "lacks|missing"),
    (change_json(CONFIG, "n_embd", value=10**18), "no tensor has the configuration.s sizes"),
    (change_json(CONFIG, "n_embd", value=32), "shape"),
    (change_json(CONFIG, "n_head", value=3), "divisible"),
    (change_json(CONFIG, "vocab_size", value=10**12), "shape"),
    (change_json(CONFIG, "vocab_size", value=0), "vocab_size=0"),
    (change_json(CONFIG, "n_positions", value=10**12), "shape"),
    (change_json(CONFIG, "n_positions", value=None), "max_position_embeddings|n_positions"),
    (change_json(CONFIG, "eos_token_id", value=10**9), "eos_token_id=1000000000 is outside"),
    (change_json(CONFIG, "attn_pdrop", value=float("nan")), "attention_dropout=nan|attn_pdrop"),
    (change_json(CONFIG, "layer_norm_epsilon", value=float("inf")), "norm_eps=inf|epsilon"),
    (change_json(CONFIG, "afn", value="softmax"), "softmax"),
    (drop(WEIGHTS), r"final has no model\.safetensors"),
    (write(WEIGHTS, b""), r"model\.safetensors is not a whole safetensors file"),
    (write(WEIGHTS, b"\xff" * 8), r"model\.safetensors is not a whole safetensors file"),
    (write(WEIGHTS, b"PK\x03\x04" * 99), r"model\.safetensors is not a whole safetensors file"),
    (header(WEIGHTS, w=HUGE), r"model\.safetensors is not a whole safetensors file"),
    (header(WEIGHTS), r"model\.safetensors: num_layers=1 is more than its 0 weights"),
    (folder(WEIGHTS), r"model\.safetensors"),
    (pipe(WEIGHTS), r"model\.safetensors"),
    (link(WEIGHTS, "/dev/zero"), r"model\.safetensors"),
    (link(WEIGHTS, "nowhere"), r"model\.safetensors"),
    (grow(WEIGHTS), r"model\.safetensors"),
    (drop(TOKENIZER), r"tokenizer\.json"),
    (write(TOKENIZER, b""), r"tokenizer\.json"),
    (write(TOKENIZER, b"\xff"), r"tokenizer\.json is not UTF-8"),
    (write(TOKENIZER, b"[" * 99999), r"tokenizer\.json"),
    (write(TOKENIZER, {}), r"tokenizer\.json"),
    (folder(TOKENIZER), r"tokenizer\.json"),
    (pipe(TOKENIZER), r"tokenizer\.json"),
    (link(TOKENIZER, "/dev/zero"), r"tokenizer\.json"),
    (grow(TOKENIZER), r"tokenizer\.json"),
    (change_json(TOKENIZER, "model", "type", value="WordPiece"), r"tokenizer\.json"),
    (change_json(TOKENIZER, "model", "vocab", value={"a": 10**12}), r"tokenizer\.json"),
    (change_json(TOKENIZER, "model", "merges", value=[["x", "yy"]]), r"tokenizer\.json"),
)


def named(row, number):
    return pytest.param(*row.values, id=f"{number}-{row.values[-1][:40]}")


MODELS = [named(row, number) for number, row in enumerate(MODELS)]


@pytest.mark.parametrize(("change", "message"), MODELS)
def test_generate_says_what_is_wrong_with_a_model(refused, hurt, change, message):
    for step in hurt.glob("step-*"):
        shutil.rmtree(step)
    change(hurt)
    refused(GENERATE, "--run", "hurt", "--max-new-tokens", "2", message=message)


@pytest.mark.parametrize(("change", "message"), MODELS[::6])
def test_huggingfaces_tools_say_what_is_wrong_with_a_model(refused, hurt, change, message):
    for step in hurt.glob("step-*"):
        shutil.rmtree(step)
    change(hurt)
    refused(HF_GENERATE, "--run", "hurt", "--max-new-tokens", "2", message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--run", "nowhere"], "there is no run 'nowhere' in runs; .*--run NAME makes one"),
        (["--run", "good.txt"], "no run 'good.txt'"),
        (["--run", "texts"], r"texts holds no model: there is no config\.json"),
        (["--run", "empty-folder"], "empty-folder holds no model"),
        (["--run", "loop"], "no run 'loop'"),
        (["--run", "a\0b"], "holds a NUL character"),
        (["--run", "x" * 5000], "no run|too long"),
        (["--run", "runs/trained/run.json"], "no run"),
        (["--prompt", ""], "the prompt '' .*(empty|0 tokens)"),
        (["--prompt", "ok", ""], "the prompt '' .*(empty|0 tokens)"),
        (["--prompt", "cat " * 99], r"the prompt 'cat .* has \d+ tokens.*32"),
        (["--prompt", "x" * 100_000], r"the prompt 'x.* has \d+ tokens.*32"),
        (["--prompt"], "give --prompt or --interactive"),
        (["--prompt", "x\udcff"], "is not valid UTF-8"),
        (["--temperature", "0"], "temperature=0"),
        (["--top-k", "-1"], "top_k=-1"),
        (["--top-p", "0"], "top_p=0.0 would keep no token|top_p=0"),
        (["--min-p", "2"], "min_p=2"),
        (["--repetition-penalty", "-1"], "repetition_penalty=-1"),
        (["--stop", ""], "a stop string is empty"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--max-new-tokens", "1000000000000"], "max_new_tokens=1000000000000 must be"),
        (["--compare=3"], "Unrecognized options: 3"),
        (["--data", "good.txt"], "Unrecognized options: --data"),
    ),
)
def test_generate_answers_a_wrong_argument(refused, trained, arguments, message):
    refused(GENERATE, *arguments, message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--run", "nowhere"], "there is no run 'nowhere'"),
        (["--run", "texts"], "texts holds no model"),
        (["--prompt", ""], "the prompt '' .*(empty|0 tokens)"),
        (["--prompt", "cat " * 99], r"the prompt 'cat .* has \d+ tokens"),
        (["--temperature", "nan"], "temperature=nan"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--max-new-tokens", "1000"], "has .* tokens.*max_new_tokens=1000"),
    ),
)
def test_huggingfaces_tools_answer_a_wrong_argument(refused, trained, arguments, message):
    refused(HF_GENERATE, *arguments, message=message)


RUN = "run.json"
STATE = "step-000002/trainer_state.json"
MANIFEST = "step-000002/MANIFEST.json"


def both(name):
    """The same of every checkpoint, so that none is left to fall back to."""

    def change(run):
        for step in run.glob("step-*"):
            remove(step / name)

    return change


RESUMED = [
    named(row, number)
    for number, row in enumerate(
        cases(
            (drop(RUN), r"hurt/run\.json does not exist"),
            (write(RUN, b""), r"run\.json is not valid JSON"),
            (write(RUN, b"{"), r"run\.json is not valid JSON"),
            (write(RUN, b"\xff"), r"run\.json is not valid JSON"),
            (write(RUN, b"{" * 99), r"run\.json is not valid JSON"),
            (write(RUN, b'{"a":' * 99999), r"run\.json .*nested too deeply"),
            (write(RUN, []), r"run\.json holds a JSON list"),
            (write(RUN, {}), r"run\.json is not of a run to resume"),
            (write(RUN, {"model": 3}), r"run\.json is not of a run to resume"),
            (pipe(RUN), r"run\.json.* not a regular file"),
            (link(RUN, "/dev/zero"), r"run\.json.* not a regular file"),
            (link(RUN, "run.json"), r"run\.json"),
            (folder(RUN), r"run\.json"),
            (grow(RUN), r"run\.json"),
            (change_json(RUN, "training", value=[]), r"run\.json is not of a run to resume"),
            (change_json(RUN, "training", "steps", value="many"), "run.json.*steps='many'"),
            (change_json(RUN, "training", "steps", value=float("nan")), "run.json.*steps=nan"),
            (change_json(RUN, "training", "batch_size", value=10**18), "batch_size=1000"),
            (change_json(RUN, "model", "embed_dim", value=10**9), "embed_dim"),
            (change_json(RUN, "model", "num_layers", value=10**9), "num_layers=1000000000"),
            (change_json(RUN, "model", "model_type", value="x"), "model='x'"),
            (change_json(RUN, "model", "vocab_size", value="x"), "vocab_size was x and is 300"),
            (change_json(RUN, "data", "data", value="good.txt"), "data='good.txt' must be a list"),
            (change_json(RUN, "data", "data", value=[3]), r"data=\(3,\) must be a list"),
            (change_json(RUN, "data", "data", value=["nowhere.txt"]), r"nowhere\.txt does not"),
            (change_json(RUN, "data", "shards", value=7), "shards=7 must be text"),
            (change_json(RUN, "data", "shards", value="shards"), "exclude one another"),
            (change_json(RUN, "data", "document_mask", value="no"), "document_mask='no'"),
            (change_json(RUN, "generation", "prompt", value=3), "prompt=3 must be a list"),
            (change_json(RUN, "generation", "top_k", value=[1]), "top_k=.* must be"),
            (change_json(RUN, "fingerprints", value={}), "fingerprints"),
            (drop_key(RUN, "generation"), "needs generation"),
            (drop_key(RUN, "training", "steps"), "needs steps"),
            (both("MANIFEST.json"), "has no checkpoint to resume from; 2 are damaged"),
            (both("model.safetensors"), "has no checkpoint to resume from; 2 are damaged"),
            (both("optimizer.safetensors"), "has no checkpoint to resume from; 2 are damaged"),
            (both("tokenizer.json"), "has no checkpoint to resume from"),
        )
    )
]


@pytest.mark.parametrize(("change", "message"), RESUMED)
def test_resuming_says_what_is_wrong_with_a_run(call, hurt, workspace, change, message):
    change(hurt)
    before = sorted(path.name for path in hurt.iterdir() if not path.name.startswith("step-"))
    answer = call(TRAIN, "--resume", "--run", "hurt", "--steps", "3")
    lines = answer.errors.strip().splitlines()
    assert answer.code == 1
    assert re.search(f"^error: .*(?:{message})", lines[-1]), lines[-1]
    assert "--debug shows where" not in lines[-1]
    assert "Traceback" not in answer.errors
    # a damaged checkpoint is set aside under another name; nothing goes away
    after = sorted(path.name for path in hurt.iterdir() if not path.name.startswith("step-"))
    assert before == after
    assert len(list(hurt.glob("step-*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        (["--resume", "nowhere"], "--resume nowhere is not a folder"),
        (["--resume", "good.txt"], r"--resume good\.txt is not a folder"),
        (["--resume", "loop"], "--resume loop is not a folder"),
        (["--resume", "a\0b"], "holds a NUL character"),
        (["--resume", "x" * 5000], "--resume x+ is not a folder|too long"),
        (["--resume", "texts"], r"run\.json does not exist"),
        (["--resume", "runs/trained"], r"run\.json does not exist|is not a checkpoint"),
        (["--resume", "runs/trained/final"], "final.*(no checkpoint|MANIFEST|not a checkpoint)"),
        (["--resume", "runs/trained/step-000009"], "step-000009 is not a folder"),
        (["--resume", "--run", "nowhere"], "no run 'nowhere'"),
        (["--resume", "--run", "texts"], "run='texts'|run.json does not exist|no run"),
        (["--resume", "--run", "a/b"], "no run 'a/b'|must be a plain name"),
        (["--resume", "--overwrite", "--run", "trained"], "goes with neither"),
        (["--resume", "--verify-resume"], "goes with neither"),
        (["--resume", "--config", "x.toml"], r"x\.toml does not exist|--config does not go"),
        (["--resume", "--run", "trained", "--steps", "1"], "training.steps was 2 and is 1"),
        (["--resume", "--run", "trained", "--seed", "9"], "seed was 0 and is 9"),
        (["--resume", "--run", "trained", "--learning-rate", "1"], "learning_rate was"),
        (["--resume", "--run", "trained", "--embed-dim", "32"], "embed_dim was 16 and is 32"),
        (["--resume", "--run", "trained", "--model", "gpt2"], "model_type was gpt and is gpt2"),
        (["--resume", "--run", "trained", "--data", "texts"], "train_dataset was|split"),
        (["--resume", "--run", "trained", "--allow-changed", "x"], "'x' is not a setting"),
        (["--resume", "--run", "trained", "--steps", "0"], "steps=0"),
        (["--resume", "--run", "trained", "--shards", "shards"], "exclude one another"),
    ),
)
def test_resuming_answers_a_wrong_argument(refused, trained, arguments, message):
    refused(TRAIN, *arguments, message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    cases(
        ([], "--data is needed"),
        (["--data", "texts"], "--tokenizer is needed"),
        (["--data", "texts", "--tokenizer", "trained"], "--out is needed"),
        (["--data", "texts", "--dataset", "x"], "exclude one another"),
        (["--data", "texts", "--tokenizer", "nowhere", "--out", "o"], "no run 'nowhere'"),
        (["--data", "texts", "--tokenizer", "texts", "--out", "o"], "texts holds no|tokenizer"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "good.txt"], r"good\.txt"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "good.txt/o"], "good.txt"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "dangling"], "dangling"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "loop"], "loop"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "pipe"], "pipe"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "/proc/o"], "/proc/o"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "a\0b"], "NUL character"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "x" * 300], "too long"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "texts"], "texts"),
        (["--data", "texts", "--tokenizer", "trained", "--out", "runs/trained"], "trained"),
        (
            ["--data", "short.txt", "--tokenizer", "trained", "--out", "shards"],
            "begun with other text: choose another folder",
        ),
        (
            ["--data", "texts", "--tokenizer", "other", "--out", "shards"],
            "was written with .*choose another folder",
        ),
        (
            ["--data", "texts", "--tokenizer", "trained", "--out", "shards", "--shard-tokens", "9"],
            "shard_tokens",
        ),
        (["--dataset", "a.jsonl", "--tokenizer", "trained", "--out", "o"], "no text in the column"),
        (["--dataset", "not.jsonl", "--tokenizer", "trained", "--out", "o"], "cannot be read"),
        (["--dataset", "no/such", "--tokenizer", "trained", "--out", "o"], "cannot be read"),
        (["--dataset-config", "x", "--data", "texts"], "--dataset-config needs --dataset"),
        (["--num-workers", "100000000"], "num_workers=100000000"),
    ),
)
def test_prepare_answers_a_wrong_argument(refused, trained, workspace, arguments, message):
    refused(PREPARE, *arguments, message=message)
    assert not (workspace / "o").exists()


INDEX = "train/index.json"
BIN, IDX = "train/shard-00000.bin", "train/shard-00000.idx"


@pytest.fixture
def shards(trained, workspace):
    """A copy of the shards to do harm to; it is gone afterwards."""
    path = workspace / "hurt-shards"
    shutil.copytree(workspace / "shards", path)
    yield path
    remove(path)


SHARDS = [
    named(row, number)
    for number, row in enumerate(
        cases(
            (drop("tokenizer.json"), r"has no tokenizer\.json: prepare_data"),
            (write("tokenizer.json", b"{"), r"tokenizer\.json"),
            (pipe("tokenizer.json"), r"tokenizer\.json"),
            (drop("train"), "train does not exist: prepare_data"),
            (drop("validation"), "validation does not exist: .*--validation-fraction"),
            (drop(INDEX), r"index\.json does not exist.*no folder of token shards"),
            (write(INDEX, b""), r"index\.json.*not valid JSON"),
            (write(INDEX, b"\xff"), r"index\.json.*not valid JSON"),
            (write(INDEX, {}), r"index\.json describes no token shards"),
            (write(INDEX, {"shards": []}), r"index\.json describes no token shards"),
            (pipe(INDEX), r"index\.json"),
            (link(INDEX, "/dev/zero"), r"index\.json"),
            (link(INDEX, "index.json"), r"index\.json"),
            (folder(INDEX), r"index\.json"),
            (grow(INDEX), r"index\.json"),
            (change_json(INDEX, "shards", value=[]), r"index\.json lists no shards"),
            (change_json(INDEX, "format", value=2), "format=2 is not 1"),
            (change_json(INDEX, "format", value=1e400), "format=inf"),
            (change_json(INDEX, "vocab_size", value=0), "vocab_size=0"),
            (change_json(INDEX, "vocab_size", value=10**12), "vocab_size=1000000000000"),
            (change_json(INDEX, "vocab_size", value="x"), "vocab_size='x'"),
            (change_json(INDEX, "dtype", value="object"), "dtype='object'"),
            (change_json(INDEX, "tokenizer_sha256", value="x"), "another tokenizer"),
            (change_json(INDEX, "eos_token_id", value=None), "no <eos>"),
            (change_json(INDEX, "eos_token_id", value=-1), "eos_token_id=-1"),
            (change_json(INDEX, "extra", value=1), "no field 'extra'"),
            (change_json(INDEX, "shards", 0, "name", value="../x"), "is not the name of a file"),
            (change_json(INDEX, "shards", 0, "name", value="x\0"), r"x\\x00|x"),
            (change_json(INDEX, "shards", 0, "tokens", value=10**18), r"shard-00000\.bin has"),
            (change_json(INDEX, "shards", 0, "tokens", value=-1), "tokens=-1"),
            (change_json(INDEX, "shards", 0, "tokens", value=float("nan")), "tokens=nan"),
            (change_json(INDEX, "shards", 0, "documents", value=10**12), "documents=1000000000000"),
            (drop(BIN), r"shard-00000\.bin is missing"),
            (write(BIN, b""), r"shard-00000\.bin has 0 bytes"),
            (folder(BIN), r"shard-00000\.bin is missing, or not a file"),
            (pipe(BIN), r"shard-00000\.bin is missing, or not a file"),
            (link(BIN, "/dev/zero"), r"shard-00000\.bin is missing, or not a file"),
            (grow(BIN), r"shard-00000\.bin has \d+ bytes"),
            (drop(IDX), r"shard-00000\.idx is missing"),
            (grow(IDX), r"shard-00000\.idx has \d+ bytes"),
            (write(IDX, b"\xff" * 8), r"shard-00000\.idx.*damaged"),
        )
    )
]


@pytest.mark.parametrize(("change", "message"), SHARDS)
def test_train_says_what_is_wrong_with_shards(refused, shards, change, message):
    change(shards)
    small = [*SMALL[2:], "--max-position-embeddings", "16"]
    refused(TRAIN, "--shards", "hurt-shards", *small, message=message)


def test_after_a_mistake_the_same_command_goes_through(call, refused, workspace, trained):
    """Nothing of a refused run or preparation stands in the way of the next try."""
    named = ["--run", "again", "--data", "good.txt", *SMALL]
    refused(TRAIN, *named, "--prompt", "cat " * 99, message="the prompt")
    prepare = ["--tokenizer", "trained", "--out", "again"]
    refused(PREPARE, *prepare, "--data", "mixed", message=r"photo\.jpg is not UTF-8")
    refused(PREPARE, *prepare, "--dataset", "a.jsonl", message="no text in the column 'text'")
    try:
        assert call(TRAIN, *named, "--save-every", "0").code == 0
        assert call(PREPARE, *prepare, "--dataset", "a.jsonl", "--text-field", "body").code == 0
    finally:
        remove(workspace / "runs" / "again")
        remove(workspace / "again")


@pytest.mark.parametrize(
    ("script", "arguments", "maker"),
    [
        (GENERATE, [], r"train_gpt_bpe\.py"),
        (HF_GENERATE, [], r"simple_hf_training\.py"),
        (TRAIN, ["--resume"], r"train_gpt_bpe\.py"),
    ],
)
def test_where_there_is_no_run_yet_it_says_what_makes_one(
    refused, workspace, script, arguments, maker
):
    message = rf"there is no run yet; .*{maker} makes one"
    refused(script, *arguments, checkpoints=workspace / "empty-folder", message=message)


# a process of its own for each: what an exit code and a stream truly are
@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (TRAIN, ["--steps", "0"], "steps=0"),
        (TRAIN, ["--data", "nowhere.txt"], r"nowhere\.txt does not exist"),
        (TRAIN, ["--data", "/dev/zero"], "not a regular file"),
        (TRAIN, ["--num-layers", "1000000000"], "num_layers=1000000000"),
        (GENERATE, ["--run", "nowhere"], "no run 'nowhere'"),
        (PREPARE, ["--data", "x"], "--tokenizer is needed"),
        (HF_SIMPLE, ["--steps", "x"], "--steps"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_process_answers_too_and_debug_shows_the_traceback(script, arguments, message, debug):
    path = ROOT / "experiments" / f"{script.replace('.', '/')}.py"
    process = subprocess.run(
        [sys.executable, str(path), *arguments, *["--debug"] * debug],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert process.returncode == 1
    assert ("Traceback" in process.stderr) == debug
    lines = process.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert re.search(message, lines[-1])
    assert debug or len(lines) == 1
