"""Continue text with a model that train_gpt_bpe.py trained.

uv run python experiments/llm_only/generate_gpt_bpe.py --prompt "The statement"
uv run python experiments/llm_only/generate_gpt_bpe.py --compare
uv run python experiments/llm_only/generate_gpt_bpe.py --interactive
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from experiments.shared.configs import GenerateScript, load_settings, relative
from experiments.shared.console import run_script
from experiments.shared.models import check_prompt, load_model
from experiments.shared.runs import find_model, read_prompts

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
    folder = find_model(settings.run, train_command=TRAIN_COMMAND)
    # said before torch loads, which takes a moment
    print(f"{relative(folder)}: loading", file=sys.stderr)
    model, tokenizer = load_model(folder, settings.device)
    for prompt in settings.generation.prompt:
        check_prompt(prompt, tokenizer, model.config.max_position_embeddings)
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


if __name__ == "__main__":
    run_script(main)
