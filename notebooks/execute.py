"""Execute the notebooks in clean kernels and store what they print and draw.

    uv run python notebooks/execute.py                          # all of them
    uv run python notebooks/execute.py notebooks/01_bpe.ipynb

What is stored beside the outputs is the same on every machine: no times, no paths. A digest of the
code and the versions that ran it let the tests tell whether code and outputs are in step.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# one thread adds the numbers up in one order
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from experiments.shared.console import run_script

FOLDER = Path(__file__).resolve().parent
SECONDS_A_CELL = 120
# cell tags: the numbers are timings; the text is of trained weights, or of this Python's own texts
TIMING, VARIES = "timing", "varies"
PACKAGES = ("torch", "transformers", "matplotlib")


def notebooks() -> list[Path]:
    """Every notebook here, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> NotebookNode:
    """The notebook with the outputs of a clean kernel, which runs in an empty folder.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no notebook, or it raised, wrote to stderr or left a file behind.
    """
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
            # it would warn of the local connection on every start
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise ValueError(f"{path.name} raises {error.ename}: {error.evalue}") from error
        left = os.listdir(folder)
    if left:
        raise ValueError(f"{path.name} leaves files behind: {', '.join(left)}")
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise ValueError(f"{path.name} writes to stderr: {output.text}")
    return notebook


def clean(notebook: NotebookNode, executed: dict[str, str]) -> NotebookNode:
    """The notebook without what differs from one machine or editor to another.

    Args:
        notebook: as it was executed.
        executed: what to record of that.
    """
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "executed": executed,
    }
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_digest(notebook: NotebookNode) -> str:
    """SHA-256 of the code, cell by cell, and of the tags by which outputs are compared."""
    code = [[cell.source, cell.metadata.get("tags", [])] for cell in code_cells(notebook)]
    return hashlib.sha256(repr(code).encode()).hexdigest()


def environment() -> dict[str, str]:
    """What outputs depend on besides the code: where it is the same, they are the same."""
    versions = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **versions, "arithmetic": _arithmetic()}


def recorded_environment(notebook: NotebookNode) -> dict[str, str]:
    """The `environment` that a stored notebook was executed in."""
    return {name: text for name, text in notebook.metadata.executed.items() if name != "code"}


def _arithmetic() -> str:
    """Digest of a small model's gradients: processors differ in their last bits."""
    import torch

    from llm.models.gpt import GPT2
    from llm.training import next_token_loss

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"embed_dim": 64, "num_heads": 4, "num_layers": 2, "max_position_embeddings": 64}
        model = GPT2({"vocab_size": 512, "dropout": 0.0, **size})
        ids = torch.randint(512, (16, 64))
    next_token_loss(model.hidden_states(ids), model.lm_head.weight, ids, num_targets=1).backward()
    torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.grad.numpy().tobytes())
    return digest.hexdigest()[:16]


def differences(stored: NotebookNode, executed: NotebookNode, *, exactly: bool) -> list[str]:
    """Where a new execution does not give the stored outputs; empty if nowhere.

    Args:
        stored: the notebook as it was.
        executed: the same code, executed anew.
        exactly: compare pictures, numbers and the text of cells tagged "varies" too, as one may
            where `environment` is the same. Otherwise these are only there or not.
    """
    found = []
    for number, (old, new) in enumerate(
        zip(code_cells(stored), code_cells(executed), strict=True), start=1
    ):
        tags = old.metadata.get("tags", [])
        was = [_comparable(output, tags, exactly) for output in old.outputs]
        now = [_comparable(output, tags, exactly) for output in new.outputs]
        if was != now:
            found.append(f"cell {number} gave {_short(was)} and now gives {_short(now)}")
    return found


def _comparable(output: NotebookNode, tags: list[str], exactly: bool) -> dict[str, Any]:
    """What has to be equal of an output, by its kind."""
    texts = {"text": output.text} if output.output_type == "stream" else dict(output.data)
    if TIMING in tags or not exactly:
        texts = {kind: None if kind.startswith("image/") else t for kind, t in texts.items()}
    if VARIES in tags and not exactly:
        return dict.fromkeys(texts)
    for kind, text in texts.items():
        if text is not None and not kind.startswith("image/"):
            text = re.sub(r"\b0x[0-9a-f]+", "address", text)
            if TIMING in tags or not exactly:
                text = re.sub(r"[\s+-]*\d[\d.,]*(e[+-]\d+)?\s*", " # ", text)
            texts[kind] = text
    return texts


def _short(outputs: list[dict[str, Any]]) -> str:
    return re.sub(r"'[\w+/=\\n]{500,}'", "a picture", str(outputs))


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all, and store them."""
    for path in map(Path, names) if names else notebooks():
        notebook = execute(path)
        clean(notebook, {"code": code_digest(notebook), **environment()})
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    run_script(main)
