"""TOML files and flags become settings, strictly."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.shared.configs import (
    CONFIGS,
    EvaluateScript,
    GenerateScript,
    GenerationSettings,
    HFTrainerScript,
    ModelSettings,
    SimpleHFScript,
    TrainingSettings,
    TrainScript,
    load_settings,
    read_config,
)


def load(*arguments, script=TrainScript, default="gpt_small.toml"):
    return load_settings(script, default, list(arguments), prog="script.py")


def fields(cls):
    return {field.name for field in dataclasses.fields(cls)}


SCRIPTS = {
    "gpt_small.toml": TrainScript,
    "generate.toml": GenerateScript,
    "evaluate.toml": EvaluateScript,
    "hf_simple.toml": SimpleHFScript,
    "hf_trainer.toml": HFTrainerScript,
    "hf_generate.toml": GenerateScript,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_committed_config_is_valid(path):
    script = SCRIPTS[path.name]
    assert isinstance(read_config(path, script), script)


def test_the_settings_have_the_libraries_own_names():
    from llm.generation import SamplingConfig
    from llm.models.gpt import GPTConfig
    from llm.training import TrainingConfig

    assert fields(TrainingSettings) == fields(TrainingConfig)
    assert fields(ModelSettings) - {"model_type"} <= fields(GPTConfig)
    assert fields(SamplingConfig) <= fields(GenerationSettings)


def test_what_the_settings_allow_the_library_allows():
    from llm.generation import SamplingConfig
    from llm.training import TrainingConfig

    settings = load()
    assert dataclasses.asdict(TrainingConfig(**vars(settings.training))) == vars(settings.training)
    names = fields(SamplingConfig)
    options = settings.generation.options()
    SamplingConfig(**{name: options[name] for name in names})


def test_flags_override_the_file():
    settings = load(
        "--steps", "7", "--model", "gpt2", "--data", "a.txt", "b", "--prompt", "Кот", "Cat"
    )
    assert settings.training.steps == 7
    assert settings.model.model_type == "gpt2"
    assert settings.data.data == ("a.txt", "b")
    assert settings.generation.prompt == ("Кот", "Cat")
    assert settings.model.embed_dim == load().model.embed_dim


def test_another_file_is_read_when_named(tmp_path):
    text = (CONFIGS / "gpt_small.toml").read_text("utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("steps = 700", "steps = 701"), "utf-8")
    assert "701" in path.read_text("utf-8")
    assert load("--config", str(path)).training.steps == 701
    assert load(f"--config={path}", "--seed", "3").training.seed == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 700", "stepz = 700", "has no field 'stepz'; did you mean 'steps'"),
        ("steps = 700", "", r"\[training\] needs steps"),
        ("steps = 700", 'steps = "many"', "steps='many' must be a whole number"),
        ("steps = 700", "steps = 6.5", r"steps=6\.5 must be a whole number"),
        ("data = []", 'data = "file.txt"', "data='file.txt' must be a list"),
        ("[training]", "[trainings]", "has no field 'trainings'; did you mean 'training'"),
        ("[model]", "[model", "is not valid TOML"),
        ('run = ""', 'run = ""\nmodel = 3', "is not valid TOML|must be a table"),
        ('model_type = "gpt"', 'model_type = "bert"', "model='bert' is not one of gpt, gpt2"),
        ("dropout = 0.1", "dropout = 1.0", r"dropout=1\.0 must be in"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(tmp_path, old, new, message):
    text = (CONFIGS / "gpt_small.toml").read_text("utf-8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.toml.*{message}") as caught:
        load("--config", str(path))
    assert "\n" not in " ".join(str(caught.value).split("\n")[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "stepz"),
        (["--steps", "abc"], "--steps.*abc"),
        (["--steps", "0"], "steps=0"),
        (["--steps", "-1"], "steps=-1"),
        (["--steps"], "--steps"),
        (["--learning-rate", "nan"], "learning_rate=nan"),
        (["--learning-rate", "0"], "learning_rate=0"),
        (["--dropout", "-0.1"], r"dropout=-0\.1"),
        (["--num-heads", "5"], "embed_dim=128 is not divisible by num_heads=5"),
        (["--vocab-size", "259"], "vocab_size=259 must be a whole number of at least 260"),
        (["--validation-fraction", "0"], "validation_fraction=0"),
        (["--model", "gpt3"], "gpt3"),
        (["--run", "a/b"], "run='a/b'"),
        (["--run", ".."], "run"),
        (["--temperature", "0"], "temperature=0"),
        (["--top-p", "1.5"], r"top_p=1\.5"),
        (["--top-k", "-1"], "top_k=-1"),
        (["--temperature", "1e-7"], "temperature=1e-07"),
        (["--seed", "9223372036854775808"], "seed=9223372036854775808"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--stop", ""], "stop string is empty"),
        (["surplus"], "surplus"),
        (["--device", "abacus"], "device='abacus' is not one of auto, cpu"),
        (["--device", ""], "device='' is not one of"),
        (["--prompt", "x\udcffy"], "is not valid UTF-8"),
        (["--run", "r\udcff"], "is not valid UTF-8"),
        (["--config", "/"], "--config / is not a regular file, but a folder"),
        (["--config"], "--config"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)


def test_an_error_names_no_class_of_ours():
    with pytest.raises(ValueError, match=r"^steps=0 must be"):
        load("--steps", "0")


def test_a_toml_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "notepad.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (CONFIGS / "gpt_small.toml").read_bytes())
    assert load("--config", str(path)).training == load().training


def test_generating_needs_something_to_continue():
    with pytest.raises(ValueError, match="give --prompt or --interactive"):
        load("--prompt", script=GenerateScript, default="generate.toml")


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml does not exist"):
        load("--config", str(tmp_path / "nowhere.toml"))


def test_help_explains_every_option_with_its_default(capsys):
    for script, default in (
        (TrainScript, "gpt_small.toml"),
        (GenerateScript, "generate.toml"),
    ):
        with pytest.raises(SystemExit) as stopped:
            load("--help", script=script, default=default)
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        settings = load(script=script, default=default)
        flags = set()
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            flags |= fields(value) if dataclasses.is_dataclass(value) else {field.name}
        for flag in flags - {"model_type"}:
            assert f"--{flag.replace('_', '-')} " in text or f"--{flag.replace('_', '-')}," in text
        assert text.count("(default:") == len(flags)


@pytest.mark.parametrize("arguments", [["--help"], ["--steps", "0"], ["--data", "nowhere"]])
def test_help_and_mistakes_do_not_wait_for_torch(arguments):
    code = (
        "import sys\n"
        "from experiments.llm_only.train_gpt_bpe import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except (SystemExit, ValueError, OSError):\n    pass\n"
        "else:\n    raise AssertionError('it ran')\n"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "a.txt", "--dataset", "b/c"], "--data and --dataset exclude one another"),
        (["--max-documents", "0"], "max_documents=0"),
        (["--seed", "4294967296"], "seed=4294967296"),
        (["--steps", "0"], "steps=0"),
        (["--learning-rate", "0"], "learning_rate=0"),
        (["--warmup-ratio", "2"], "warmup_ratio=2"),
        (["--save-every", "0"], "save_every=0"),
        (["--num-proc", "0"], "num_proc=0"),
        (["--validation-fraction", "0"], "validation_fraction=0"),
        (["--vocab-size", "100"], "vocab_size=100"),
        (["--max-new-tokens", "64"], "max_new_tokens=64 leaves no room for a prompt"),
        (["--device", "cuda:1"], "device='cuda:1'.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_mistake_in_the_huggingface_scripts_is_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(*arguments, script=HFTrainerScript, default="hf_trainer.toml")
    assert "\n" not in str(caught.value)


def test_transformers_is_told_what_the_settings_say():
    options = load(
        "--do-sample", "--top-k", "0", "--stop", ".", script=GenerateScript, default="generate.toml"
    ).generation.hf_options()
    # 0 is its name for "all": left out, it would take 50
    assert options["top_k"] == 0
    assert options["min_p"] is None
    assert options["stop_strings"] == ["."]
    greedy = load("--no-do-sample", script=GenerateScript, default="generate.toml").generation
    assert not {"temperature", "top_k", "top_p", "min_p"} & set(greedy.hf_options())
