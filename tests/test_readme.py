"""The READMEs are true: their blocks run, their tree is there, their commands are understood."""

import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from experiments.llm_only.prepare_data import PrepareScript
from experiments.shared.configs import (
    EvaluateScript,
    GenerateScript,
    HFTrainerScript,
    SimpleHFScript,
    TrainScript,
    load_settings,
)
from experiments.shared.console import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", "README.ru.md"]
SCRIPTS = {
    "experiments/llm_only/train_gpt_bpe.py": (TrainScript, "gpt_small.toml"),
    "experiments/llm_only/generate_gpt_bpe.py": (GenerateScript, "generate.toml"),
    "experiments/llm_only/evaluate.py": (EvaluateScript, "evaluate.toml"),
    "experiments/hf_integration/simple_hf_training.py": (SimpleHFScript, "hf_simple.toml"),
    "experiments/hf_integration/train_with_hf_trainer.py": (HFTrainerScript, "hf_trainer.toml"),
    "experiments/hf_integration/generate_with_hf_tools.py": (GenerateScript, "hf_generate.toml"),
}


def blocks(readme, language):
    text = (ROOT / readme).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("readme", [*READMES, "llm/README.md", "hf-proxy/README.md"])
def test_the_python_blocks_run_one_after_the_other(readme, tmp_path):
    code = "\n".join(blocks(readme, "python"))
    assert code
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr


def test_both_editions_show_the_same_code_commands_and_output():
    def code(readme):
        text = "\n".join(
            block for kind in ("python", "bash", "text") for block in blocks(readme, kind)
        )
        return [line.split("  #")[0].rstrip() for line in text.splitlines()]

    assert code("README.md") == code("README.ru.md")
    assert len(code("README.md")) > 30


@pytest.mark.parametrize("readme", READMES)
def test_every_line_of_the_tree_is_in_the_repository(readme):
    (tree,) = blocks(readme, "tree")
    folders = []
    for line in tree.splitlines():
        match = re.match(r"( *)(\S+)", line)
        depth, name = len(match[1]) // 2, match[2]
        folders[depth:] = [name]
        path = ROOT.joinpath(*folders)
        assert path.exists(), path
        assert path.is_dir() == name.endswith("/"), path


def test_every_tracked_top_level_entry_is_in_the_tree():
    (tree,) = blocks("README.md", "tree")
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines() if not line.startswith(" ")}
    output = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert {line.split("/")[0] for line in output.splitlines()} == shown


@pytest.mark.parametrize("readme", [*READMES, "CONTRIBUTING.md"])
def test_every_command_is_one_that_the_scripts_understand(readme):
    lines = [
        line.split("  #")[0].strip()
        for block in blocks(readme, "bash")
        for line in block.splitlines()
    ]
    assert lines
    for line in lines:
        words = shlex.split(line)
        if words[3:] == ["experiments/hf_integration/test_hf_proxy.py"]:
            assert (ROOT / words[3]).is_file()  # a test of its own, which takes no options
        elif words[3:4] == ["experiments/llm_only/prepare_data.py"]:
            parse_arguments(PrepareScript, PrepareScript(), words[4:], prog=words[3])
        elif words[:3] == ["uv", "run", "torchrun"]:
            script = next(word for word in words if word.endswith(".py"))
            load_settings(*SCRIPTS[script], words[words.index(script) + 1 :], prog=script)
        elif words[:3] == ["uv", "run", "python"]:
            script, default = SCRIPTS[words[3]]
            expected = pytest.raises(SystemExit) if "--help" in words else nullcontext()
            with expected:
                load_settings(script, default, words[4:], prog=words[3])


def test_ci_runs_what_contributing_says():
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for line in "\n".join(blocks("CONTRIBUTING.md", "bash")).splitlines():
        command = line.split("  #")[0].strip()
        for word in (
            "black --check .",
            "ruff check .",
            "mypy",
            "pytest",
            "uv sync",
            "uv build",
        ):
            if word in command:
                assert word in ci, command
