"""Every number flag and every value of the TOML files, given what it cannot be."""

import dataclasses
import json
from typing import get_args, get_origin, get_type_hints

import pytest

from experiments.llm_only.prepare_data import PrepareScript
from experiments.shared.configs import (
    CONFIGS,
    EvaluateScript,
    GenerateScript,
    HFTrainerScript,
    SimpleHFScript,
    TrainScript,
)

SCRIPTS = {
    "llm_only.train_gpt_bpe": (TrainScript, "gpt_small.toml"),
    "llm_only.generate_gpt_bpe": (GenerateScript, "generate.toml"),
    "llm_only.evaluate": (EvaluateScript, "evaluate.toml"),
    "llm_only.prepare_data": (PrepareScript, None),
    "hf_integration.simple_hf_training": (SimpleHFScript, "hf_simple.toml"),
    "hf_integration.train_with_hf_trainer": (HFTrainerScript, "hf_trainer.toml"),
    "hf_integration.generate_with_hf_tools": (GenerateScript, "hf_generate.toml"),
}

# where the least that may be is not 1, for whole numbers
LEAST = {
    "max_position_embeddings": 2,
    "vocab_size": 260,
    "keep_checkpoints": 2,
    "validate_every": 0,
    "sample_every": 0,
    "save_every": 0,
    "seed": 0,
    "top_k": 0,
    "max_tokens": 0,
    "stride": 0,
}
# and what is just outside the range of others
OUTSIDE = {
    "dropout": ["1"],
    "validation_fraction": ["0", "1"],
    "learning_rate": ["0"],
    "beta1": ["1"],
    "beta2": ["1"],
    "ema_decay": ["1"],
    "warmup_ratio": ["1.01"],
    "min_learning_rate_ratio": ["1.01"],
    "temperature": ["0", "1e-7", "1e7"],
    "top_p": ["0", "1.01"],
    "min_p": ["1.01"],
    "repetition_penalty": ["0", "1e7"],
}


def fields_of(script):
    """Names and types of all settings, and the section of each."""
    for name, kind in get_type_hints(script).items():
        if dataclasses.is_dataclass(kind):
            for inner, inner_kind in get_type_hints(kind).items():
                yield name, inner, inner_kind
        else:
            yield "", name, kind


def bad_values(script, name, kind):
    if kind is int:
        least = LEAST.get(name, 1)
        if script is HFTrainerScript and (name.endswith("_every") or name == "keep_checkpoints"):
            least = 1
        huge = ["4294967296"] if script in (SimpleHFScript, HFTrainerScript) else []
        huge = [*huge, "9223372036854775808"] if name == "seed" else ["1000000000000000000"]
        few = [str(least - 1), "-7", "nan", "inf", "1e30", "2.5", "many", "", "1" * 5000]
        return [*few, *huge]
    huge = ["inf", "-inf", "1e30", "1e400"]
    return ["-0.1", "nan", *huge, "much", "", *OUTSIDE.get(name, [])]


def number_cases():
    for path, (script, _) in SCRIPTS.items():
        for _, name, kind in fields_of(script):
            if kind not in (int, float):
                continue
            values = bad_values(script, name, kind)
            if path == "llm_only.prepare_data" and name == "validation_fraction":
                values.remove("0")
            if path.startswith("hf_"):
                # the settings are the same classes
                values = [values[0], values[-1]]
            for value in values:
                shown = value if len(value) < 30 else f"{len(value)}-digits"
                yield pytest.param(path, name, value, id=f"{path}-{name}-{shown}")


@pytest.mark.parametrize(("script", "name", "value"), list(number_cases()))
def test_a_number_out_of_range_is_named(refused, script, name, value):
    flag = f"--{name.replace('_', '-')}"
    refused(
        script,
        *("--data", "nowhere.txt") * ("generate" not in script),
        *("--tokenizer", "nowhere", "--out", "shards") * ("prepare" in script),
        f"{flag}={value}",
        message=rf"({name}=|{flag}).*(must be|invalid literal|could not convert|Exceeds)"
        rf"|{name}=0.* would| leaves ",
    )


WRONG = {
    int: ['"7"', "true", "[1]", "10000000000000000000000"],
    float: ['"0.5"', "true", "[0.5]", "2020-01-01"],
    bool: ['"yes"', "1"],
    str: ["3", '["a"]', "true"],
    tuple: ['"a"', "[1]", '[["a"]]'],
}


def toml_cases():
    for path, (script, config) in SCRIPTS.items():
        if config is None:
            continue
        for section, name, kind in fields_of(script):
            kind = tuple if get_origin(kind) is tuple else kind
            # a choice is text
            kind = str if get_args(kind) and kind is not tuple else kind
            if name == "config":
                continue
            wrong = WRONG[kind][: 1 if path.startswith("hf_") else 4]
            for value in wrong:
                yield pytest.param(
                    *(path, config, section, name, value), id=f"{path}-{name}-{value}"
                )


def with_value(config, section, name, value):
    """The TOML of a config, with another value of a field."""
    lines, here, done = [], "", False
    for line in (CONFIGS / config).read_text("utf-8").splitlines():
        if line.startswith("["):
            if here == section and not done:
                lines.append(f"{name} = {value}")
                done = True
            here = line.strip("[]")
        if here == section and line.split("=")[0].strip() == name:
            line, done = f"{name} = {value}", True
        lines.append(line)
    if not done:
        lines.append(f"{name} = {value}")
    return "\n".join(lines)


@pytest.mark.parametrize(("script", "config", "section", "name", "value"), list(toml_cases()))
def test_a_value_of_another_type_is_named_with_the_file(
    refused, tmp_path, script, config, section, name, value
):
    path = tmp_path / "wrong.toml"
    path.write_text(with_value(config, section, name, value), "utf-8")
    shown = name.removesuffix("_type")
    refused(script, "--config", path, message=rf"wrong\.toml: .*{shown}.* (must|is not one of)")


def test_each_number_was_tried():
    """The table is made of the settings: a new flag is in it without being written down."""
    names = {case.values[1] for case in number_cases() if "train_gpt" in case.values[0]}
    assert {"steps", "temperature", "embed_dim", "seed", "max_loss_ratio"} <= names
    assert json.dumps(sorted(names)).count(",") > 25
