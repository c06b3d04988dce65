"""Runs evaluated on one text, so that their figures compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.shared.configs import EvaluateScript, relative
from experiments.shared.curves import Curve, read_curve
from experiments.shared.evaluated_text import (
    EvaluatedText,
    description_of,
    name_of_text,
    named_files,
    texts_of_run,
    trained_on,
)
from experiments.shared.models import check_prompt, load_model

if TYPE_CHECKING:
    from llm.core.base_model import BaseModel
    from llm.evaluation import GenerationReport, TextModel, TextScore
    from llm.inspection import AttentionMaps, TokenLosses
    from llm.tokenizers import BPETokenizer

# a number, or that there is none
Figure = float | None

# texts of each prompt, of which the report shows the first
SAMPLES = 4
# characters of the passage that is looked at token by token, and tokens of an attention map
PASSAGE, MAP_TOKENS = 600, 20
# of a deep and wide model, how many are drawn
MAP_LAYERS, MAP_HEADS = 4, 8


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What was found of one run.

    Args:
        name: of the run.
        model: its folder.
        architecture: of it.
        num_parameters: of it.
        vocab_size: V.
        trained_tokens: on which it was trained; None where no metrics say so.
        score: on the text.
        baselines: by name, on the same tokens, counted on what the run was trained on.
        tasks: by file, figures by name.
        generation: what it writes, and how fast.
        token_losses: of the beginning of the text.
        attention: on its first tokens.
        curve: of the training; None where no metrics are.
    """

    name: str
    model: Path
    architecture: str
    num_parameters: int
    vocab_size: int
    trained_tokens: int | None
    score: TextScore
    baselines: Mapping[str, TextScore]
    tasks: Mapping[str, Mapping[str, Figure]]
    generation: GenerationReport
    token_losses: TokenLosses
    attention: AttentionMaps
    curve: Curve | None

    @property
    def uniform_loss(self) -> float:
        """Nats per token of a model that knows nothing."""
        return math.log(self.vocab_size)

    @property
    def bits_per_byte_of_loss(self) -> float:
        """What a nat per token is, at the text's tokens per byte."""
        return self.score.num_targets / self.score.num_bytes / math.log(2)

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON, which has no infinity: None stands for it."""
        return {
            "name": self.name,
            "model": str(self.model),
            "architecture": self.architecture,
            "num_parameters": self.num_parameters,
            "trained_tokens": self.trained_tokens,
            "score": _finite(self.score.to_dict()),
            "baselines": {name: _finite(score.to_dict()) for name, score in self.baselines.items()},
            "tasks": {task: _finite(scores) for task, scores in self.tasks.items()},
            "generation": self.generation.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Several runs on one text.

    Args:
        text: which.
        runs: what was found of each.
        doubts: what may mislead a reader.
        made: when and with what, in words.
    """

    text: EvaluatedText
    runs: Sequence[RunEvaluation]
    doubts: Sequence[str]
    made: str

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        text = asdict(self.text)
        return {
            "text": {key: text[key] for key in ("name", "num_documents", "num_bytes", "sha256")},
            "made": self.made,
            "doubts": list(self.doubts),
            "runs": [run.to_dict() for run in self.runs],
        }


class TrainedModel(NamedTuple):
    """A model folder, and the folder of the run that it is of, which may be the same."""

    model: Path
    run: Path

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.resolve().name


def run_of(model: Path) -> TrainedModel:
    """The run that a model folder is of: the one around final/ or a checkpoint."""
    has_run = (model.parent / "run.json").is_file() and not (model / "run.json").is_file()
    return TrainedModel(model, model.parent if has_run else model)


def read_evaluated_text(settings: EvaluateScript, run: TrainedModel) -> EvaluatedText:
    """The text of --data, or what the run was validated on.

    Raises:
        OSError: there is no such text.
        ValueError: the run does not say what it was validated on, or that has changed.
    """
    if settings.data:
        name = ", ".join(settings.data)
        return EvaluatedText.of(name, named_files(settings.data), beginning=PASSAGE)
    texts = texts_of_run(run.run, run.model)
    if texts is None:
        raise ValueError(
            f"{relative(run.run)} does not say what text it was validated on: name one with --data"
        )
    return EvaluatedText.of(name_of_text(run.run), texts.validation, beginning=PASSAGE)


def doubts(settings: EvaluateScript, runs: Sequence[TrainedModel]) -> list[str]:
    """What may mislead: runs that were trained on the very text, or that may have been."""
    found = []
    first = description_of(runs[0].run).get("data") or {}
    for run in runs:
        if files := trained_on(run.run, settings.data):
            found.append(f"{run.name} was trained on text of {', '.join(files)}")
        data = description_of(run.run).get("data") or {}
        other = any(data.get(key) != first.get(key) for key in ("train_sha256", "shards"))
        if not settings.data and other:
            found.append(
                f"{run.name} was trained on other text than {runs[0].name}, which may "
                "hold some of this"
            )
    return found


def check_run(run: TrainedModel, settings: EvaluateScript) -> None:
    """Raise what `evaluate_run` would for the settings, before any run is evaluated.

    Raises:
        OSError: a file of it cannot be read.
        ValueError: one is damaged, or a prompt or the stride does not fit the model.
    """
    model, tokenizer = load_model(run.model, settings.device)
    context = model.config.max_position_embeddings
    for prompt in settings.generation.prompt:
        check_prompt(prompt, tokenizer, context)
    if settings.stride > context:
        raise ValueError(
            f"stride={settings.stride} is larger than the context of {run.name}, {context}"
        )
    texts_of_run(run.run, run.model)


def evaluate_run(run: TrainedModel, text: EvaluatedText, settings: EvaluateScript) -> RunEvaluation:
    """Evaluate one run, which `check_run` has looked at.

    Raises:
        ValueError: a task does not fit the model.
    """
    from llm.evaluation import evaluate_text, text_model
    from llm.training.run_folder import RunFolder

    model, tokenizer = load_model(run.model, settings.device)
    scored = text_model(model, tokenizer)
    score = evaluate_text(
        scored,
        text.documents,
        stride=settings.stride or None,
        batch_size=settings.batch_size,
    )
    metrics = RunFolder(run.run).metrics()
    return RunEvaluation(
        name=run.name,
        model=relative(run.model),
        architecture=type(model).__name__,
        num_parameters=model.num_parameters(),
        vocab_size=model.config.vocab_size,
        trained_tokens=_trained_tokens(metrics, run.model),
        score=score,
        baselines=_baselines(scored, run, text),
        tasks={task: _task(scored, task, settings) for task in settings.tasks},
        generation=_generation(model, tokenizer, settings),
        token_losses=_token_losses(model, tokenizer, text.beginning),
        attention=_attention(model, tokenizer, text.beginning),
        curve=read_curve(metrics) if metrics else None,
    )


def _trained_tokens(metrics: Sequence[Mapping[str, Any]], model: Path) -> int | None:
    _, _, number = model.name.rpartition("-")
    step = int(number) if model.name.startswith("step-") and number.isdigit() else math.inf
    tokens = [line["tokens"] for line in metrics if line["step"] <= step]
    return max(tokens, default=None)


def _baselines(
    scored: TextModel, run: TrainedModel, text: EvaluatedText
) -> Mapping[str, TextScore]:
    from llm.evaluation import Uniform, count_baselines, evaluate_baselines

    texts = texts_of_run(run.run, run.model)
    if texts is None:
        # nothing is known of what it was trained on
        return evaluate_baselines({"uniform": Uniform(scored.vocab_size)}, scored, text.documents)
    return evaluate_baselines(count_baselines(scored, texts.train), scored, text.documents)


def _task(scored: TextModel, path: str, settings: EvaluateScript) -> Mapping[str, Figure]:
    from llm.evaluation import read_task, score_task

    return score_task(scored, read_task(path), batch_size=settings.batch_size).to_dict()


def _generation(
    model: BaseModel, tokenizer: BPETokenizer, settings: EvaluateScript
) -> GenerationReport:
    import torch

    from llm.evaluation import report_generation

    options = settings.generation.options()
    del options["stop"]  # there is none
    generator = torch.Generator(model.decoder.token_embeddings.weight.device)
    return report_generation(
        model,
        tokenizer,
        settings.generation.prompt,
        # greedy samples would be one again and again
        samples_per_prompt=SAMPLES if settings.generation.do_sample else 1,
        generator=generator.manual_seed(settings.seed),
        **options,
    )


def _token_losses(model: BaseModel, tokenizer: BPETokenizer, passage: str) -> TokenLosses:
    from llm.inspection import token_losses

    ids = tokenizer.encode(passage, add_special_tokens=False)
    return token_losses(model, tokenizer, ids[: model.config.max_position_embeddings])


def _attention(model: BaseModel, tokenizer: BPETokenizer, passage: str) -> AttentionMaps:
    from llm.inspection import attention_maps

    ids = tokenizer.encode(passage, add_special_tokens=False)
    room = min(MAP_TOKENS, model.config.max_position_embeddings)
    return attention_maps(
        model, tokenizer, ids[:room], layers=spread(model.config.num_layers, MAP_LAYERS)
    )


def spread(size: int, most: int) -> list[int]:
    """All of 0 to size - 1, or `most` of them, the first and last included."""
    if size <= most:
        return list(range(size))
    return [round(index * (size - 1) / (most - 1)) for index in range(most)]


def _finite(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    return {
        name: value if value is None or math.isfinite(value) else None
        for name, value in figures.items()
    }
