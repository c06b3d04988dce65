"""What the HuggingFace training scripts leave behind: an export, samples, what to try next."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shared.configs import GenerationSettings, SimpleHFScript

if TYPE_CHECKING:
    from hf_proxy import HFAdapter, HFTokenizerAdapter


def save(
    model: HFAdapter, tokenizer: HFTokenizerAdapter, run_folder: Path, settings: SimpleHFScript
) -> None:
    """Leave the model in final/, as transformers' own class has it, with the proof."""
    from transformers.utils import logging

    from hf_proxy import export_native
    from llm.core.files import write_json

    logging.disable_progress_bar()
    print(export_native(model.eval(), run_folder / "final", tokenizer))
    fields = dataclasses.asdict(settings)
    write_json(run_folder / "run.json", {**fields, "config": str(settings.config)})


def show(model: HFAdapter, tokenizer: HFTokenizerAdapter, settings: GenerationSettings) -> None:
    """Continue the prompts with HuggingFace's own `generate`."""
    print()
    for prompt in settings.prompt:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        generated = model.generate(**inputs, **settings.hf_options(), tokenizer=tokenizer)
        print(f"  {tokenizer.decode(generated[0], skip_special_tokens=True)}")


def what_next(run_folder: Path) -> None:
    """Print what to try with the trained model."""
    script = "uv run python experiments/hf_integration/generate_with_hf_tools.py"
    print(f"""
The run is in {run_folder}: final/ (model and tokenizer), run.json
Try next:
  {script} --run {run_folder.name} --compare
  {script} --run {run_folder.name} --interactive""")
