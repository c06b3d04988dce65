"""What importing the library brings along."""

import subprocess
import sys

import pytest

# each takes a good part of what torch takes, or more
HEAVY = ("transformers", "datasets", "tokenizers", "matplotlib", "pandas", "scipy", "sklearn")


def modules_after(code):
    """The modules that a fresh interpreter has after some code."""
    listing = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", listing], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_the_package_alone_brings_no_library():
    assert "llm" in (found := modules_after("import llm"))
    assert not {"torch", "numpy", *HEAVY} & found


def test_configurations_and_the_tokenizer_bring_no_torch():
    found = modules_after("from llm.tokenizers import BPETokenizer\nimport llm.core.config")
    assert not {"torch", *HEAVY} & found


@pytest.fixture(scope="module")
def of_torch():
    return modules_after("import torch")


@pytest.mark.parametrize(
    "code",
    [
        "import llm.models, llm.generation",
        "import llm.training, llm.evaluation, llm.preflight",
    ],
)
def test_models_generation_and_training_bring_little_but_torch(code, of_torch):
    found = modules_after(code)
    assert "torch" in found
    assert not set(HEAVY) & found
    # compilers and their kin are loaded by who asks for them
    ours = {name for name in found - of_torch if name.split(".")[0] == "torch"}
    assert not {"torch._dynamo", "torch._inductor", "torch.onnx"} & ours, sorted(ours)


def test_opening_a_model_and_its_first_logits_load_no_compiler(make_model, tmp_path):
    make_model("gpt2").save_pretrained(tmp_path / "model")
    found = modules_after(
        "import torch\n"
        "from llm.models import load_pretrained\n"
        f"model = load_pretrained({str(tmp_path / 'model')!r})\n"
        "with torch.no_grad():\n    model(torch.arange(5)[None])"
    )
    assert "torch" in found
    assert not {"torch._inductor", "torch._dynamo", "sympy", *HEAVY} & found
