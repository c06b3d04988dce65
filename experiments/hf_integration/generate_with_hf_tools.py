"""Continue text with a saved run, through HuggingFace's own tools.

    uv run python experiments/hf_integration/generate_with_hf_tools.py --prompt "The cat" "Кошка"
    uv run python experiments/hf_integration/generate_with_hf_tools.py --compare
    uv run python experiments/hf_integration/generate_with_hf_tools.py --interactive

It takes a run of any script here, also those of llm_only/.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from experiments.shared.configs import GenerateScript, load_settings, relative
from experiments.shared.console import run_script
from experiments.shared.models import check_prompt
from experiments.shared.runs import find_model, read_prompts

if TYPE_CHECKING:
    from transformers import Pipeline

SCRIPT = "experiments/hf_integration/generate_with_hf_tools.py"
TRAIN_COMMAND = "uv run python experiments/hf_integration/simple_hf_training.py"

# what transformers' `generate` is told besides the length
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams, 4": {"do_sample": False, "num_beams": 4},
    "temperature 0.7": {"do_sample": True, "temperature": 0.7, "top_k": 0},
    "top-k 20": {"do_sample": True, "top_k": 20},
    "top-p 0.9": {"do_sample": True, "top_p": 0.9, "top_k": 0},
    "min-p 0.1": {"do_sample": True, "min_p": 0.1, "top_k": 0},
    "greedy, no 3 tokens twice": {"do_sample": False, "no_repeat_ngram_size": 3},
    "prompt lookup, as greedy": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}


def main(arguments: list[str]) -> None:
    """Load a run and continue the prompts."""
    settings = load_settings(GenerateScript, "hf_generate.toml", arguments, prog=SCRIPT)
    folder = find_model(settings.run, train_command=TRAIN_COMMAND)
    # said before torch and transformers load, which takes a moment
    print(f"{relative(folder)}: loading", file=sys.stderr)

    from transformers.utils import logging

    from hf_proxy import create_hf_pipeline, load_llm_model
    from llm.core.device import choose_device

    logging.disable_progress_bar()
    device = choose_device(settings.device)
    model, tokenizer = load_llm_model(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{relative(folder)} has no tokenizer.json")
    for prompt in settings.generation.prompt:
        check_prompt(
            *(prompt, tokenizer, model.config.max_position_embeddings),
            max_new_tokens=settings.generation.max_new_tokens,
        )
    print(
        f"{relative(folder)}: {type(model).__name__}, {model.num_parameters():,} parameters",
        file=sys.stderr,
    )
    pipe = create_hf_pipeline(model.to(device), tokenizer)
    prompts = read_prompts() if settings.interactive else iter(settings.generation.prompt)
    for prompt in prompts:
        if settings.compare:
            compare(pipe, prompt, settings)
        else:
            show(pipe, prompt, settings.generation.hf_options(), settings.seed)


def show(pipe: Pipeline, prompt: str, options: dict[str, Any], seed: int) -> None:
    """Print the prompt and its continuation."""
    from transformers import set_seed

    set_seed(seed)
    if "stop_strings" in options:
        options = {**options, "tokenizer": pipe.tokenizer}
    (result,) = pipe(prompt, **options)
    print(result["generated_text"])


def compare(pipe: Pipeline, prompt: str, settings: GenerateScript) -> None:
    """Print the continuation by each strategy; the length is the settings'."""
    for name, strategy in STRATEGIES.items():
        print(f"--- {name}")
        options = {"max_new_tokens": settings.generation.max_new_tokens, **strategy}
        show(pipe, prompt, options, settings.seed)


if __name__ == "__main__":
    run_script(main)
