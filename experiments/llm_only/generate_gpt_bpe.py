"""Continue text with a model that train_gpt_bpe.py trained.

uv run python experiments/llm_only/generate_gpt_bpe.py --prompt "The statement"
uv run python experiments/llm_only/generate_gpt_bpe.py --compare
uv run python experiments/llm_only/generate_gpt_bpe.py --interactive
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.shared.configs import CHECKPOINTS, GenerateScript, load_settings, relative
from experiments.shared.console import run_script

if TYPE_CHECKING:
    from llm.core.base_model import BaseModel
    from llm.tokenizers import BPETokenizer

SCRIPT = "experiments/llm_only/generate_gpt_bpe.py"
TRAIN_COMMAND = "uv run python experiments/llm_only/train_gpt_bpe.py"

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "temperature 0.5": {"do_sample": True, "temperature": 0.5},
    "temperature 1.0": {"do_sample": True, "temperature": 1.0},
    "top-k 20": {"do_sample": True, "temperature": 1.0, "top_k": 20},
    "top-p 0.9": {"do_sample": True, "temperature": 1.0, "top_p": 0.9},
    "min-p 0.1": {"do_sample": True, "temperature": 1.0, "min_p": 0.1},
    "greedy, repetition penalty 1.3": {"do_sample": False, "repetition_penalty": 1.3},
}


def main(arguments: list[str]) -> None:
    """Load a run and continue the prompts."""
    settings = load_settings(GenerateScript, "generate.toml", arguments, prog=SCRIPT)
    folder = find_model(settings.run)
    model, tokenizer = load(folder, settings.device)
    print(
        f"{relative(folder)}: {type(model).__name__}, {model.num_parameters():,} parameters",
        file=sys.stderr,
    )
    prompts = read_prompts() if settings.interactive else iter(settings.generation.prompt)
    for prompt in prompts:
        if settings.compare:
            compare(model, tokenizer, prompt, settings)
        else:
            show(model, tokenizer, prompt, settings.generation.options(), settings.seed)


def find_model(run: str) -> Path:
    """The model folder of a run: its `final/`, or the newest checkpoint.

    Args:
        run: a run's name or folder, or a model folder; empty for the newest
            run that has a model.

    Raises:
        FileNotFoundError: there is no such run, or it has no model yet.
    """
    if run:
        named = [folder for folder in (CHECKPOINTS / run, Path(run)) if folder.is_dir()]
        if not named:
            raise FileNotFoundError(
                f"there is no run {run!r} in {relative(CHECKPOINTS)}; "
                f"{TRAIN_COMMAND} --run NAME makes one"
            )
        runs = named[:1]
    else:
        files = sorted(CHECKPOINTS.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise FileNotFoundError(f"there is no run yet; {TRAIN_COMMAND} makes one")
        runs = [file.parent for file in reversed(files)]
    for folder in runs:
        # longer names are later steps
        steps = sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name))
        for candidate in (folder, folder / "final", *reversed(steps)):
            if (candidate / "config.json").is_file():
                return candidate
    raise FileNotFoundError(
        f"{relative(runs[0])} holds no model: there is no config.json in it, its final/ or a "
        f"step-…/; {TRAIN_COMMAND} makes a new run"
    )


def load(folder: Path, device: str) -> tuple[BaseModel, BPETokenizer]:
    """The model and tokenizer of a folder, on the device."""
    # these load torch, which takes a moment
    from llm.core.device import choose_device
    from llm.models import load_pretrained
    from llm.tokenizers import BPETokenizer

    chosen = choose_device(device)
    model, tokenizer = load_pretrained(folder), BPETokenizer.load(folder)
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{folder} is damaged: {name} holds what is not a finite number")
    return model.to(chosen), tokenizer


def show(
    model: BaseModel, tokenizer: BPETokenizer, prompt: str, options: dict[str, Any], seed: int
) -> None:
    """Print the prompt and its continuation, as it is made."""
    import torch

    from llm.generation import stream_text

    generator = torch.Generator(model.decoder.token_embeddings.weight.device).manual_seed(seed)
    print(prompt, end="", flush=True)
    for piece in stream_text(model, tokenizer, prompt, generator=generator, **options):
        print(piece, end="", flush=True)
    print()


def compare(
    model: BaseModel, tokenizer: BPETokenizer, prompt: str, settings: GenerateScript
) -> None:
    """Print the continuation by each strategy; length and stop strings are the settings'."""
    generation = settings.generation
    for name, strategy in STRATEGIES.items():
        print(f"--- {name}")
        options = {"max_new_tokens": generation.max_new_tokens, "stop": generation.stop}
        show(model, tokenizer, prompt, {**options, **strategy}, settings.seed)


def read_prompts() -> Iterator[str]:
    """Lines that the user types, until an empty one or the end."""
    print("Type the beginning of a text; an empty line ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        # without a standard input there are no prompts
        line = sys.stdin.readline().rstrip("\r\n") if sys.stdin else ""
        if not line:
            return
        yield line


if __name__ == "__main__":
    run_script(main)
