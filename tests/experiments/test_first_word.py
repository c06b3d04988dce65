"""A script speaks before it loads what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# at the first word: what is loaded by then, and the end
LISTEN = """
import os, sys
class Listener:
    def write(self, text):
        heavy = {"torch", "transformers", "datasets", "matplotlib"} & set(sys.modules)
        os.write(1, f"{sorted(heavy)} {text}".encode())
        os._exit(0)
    def flush(self):
        pass
sys.stdout = sys.stderr = Listener()
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("llm_only.train_gpt_bpe", "Text: "),
        ("llm_only.generate_gpt_bpe", "loading"),
        ("llm_only.evaluate", "Text: "),
        ("hf_integration.simple_hf_training", "Text: "),
        ("hf_integration.train_with_hf_trainer", "Text: "),
        ("hf_integration.generate_with_hf_tools", "loading"),
    ],
)
def test_the_first_word_comes_before_torch(tmp_path, script, words):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (run / name).write_text("{}")
    arguments = ["--run", str(run)] if "generate" in script or "evaluate" in script else []
    if "evaluate" in script:
        arguments += ["--data", "README.md"]
    code = (
        f"{LISTEN}\n"
        "from pathlib import Path\n"
        "from experiments.shared import runs\n"
        f"runs.CHECKPOINTS = Path({str(tmp_path)!r})\n"
        f"from experiments.{script} import main\n"
        f"main({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("[] "), done.stdout + done.stderr
    assert words in done.stdout
