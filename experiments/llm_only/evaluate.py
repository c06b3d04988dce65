"""Say how good trained models are: figures that compare, and a report to look at.

    uv run python experiments/llm_only/evaluate.py
    uv run python experiments/llm_only/evaluate.py --run mine --compare yours theirs
    uv run python experiments/llm_only/evaluate.py --data book.txt --tasks questions.jsonl

The report is one file, report.html, that needs no network; the figures are in
evaluation.json beside it.
"""

from __future__ import annotations

import platform
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shared.configs import EvaluateScript, load_settings, relative
from experiments.shared.console import run_script
from experiments.shared.evaluations import (
    Evaluation,
    TrainedModel,
    check_run,
    doubts,
    evaluate_run,
    read_evaluated_text,
    run_of,
)
from experiments.shared.runs import find_model

if TYPE_CHECKING:
    from llm.evaluation import TextScore

SCRIPT = "experiments/llm_only/evaluate.py"
TRAIN_COMMAND = "uv run python experiments/llm_only/train_gpt_bpe.py"


def main(arguments: list[str]) -> None:
    """Evaluate the runs, and write what was found."""
    settings = load_settings(EvaluateScript, "evaluate.toml", arguments, prog=SCRIPT)
    runs = [
        run_of(find_model(name, train_command=TRAIN_COMMAND))
        for name in (settings.run, *settings.compare)
    ]
    check_names(runs)
    out = Path(settings.out) if settings.out else runs[0].run
    # what may fail does so before the work
    make_folder(out)
    text = read_evaluated_text(settings, runs[0])
    print(f"Text: {text.name}, {text.num_documents:,} documents, {text.num_bytes:,} bytes")

    # what follows needs torch, which takes a moment to load
    for run in runs:
        print(f"{relative(run.model)}: loading", file=sys.stderr)
        check_run(run, settings)
    check_tasks(settings.tasks)
    evaluated = []
    for run in runs:
        print(f"{run.name}: evaluating", file=sys.stderr)
        evaluated.append(evaluate_run(run, text, settings))
    evaluation = Evaluation(
        text=text, runs=evaluated, doubts=doubts(settings, runs), made=made_with()
    )
    print_figures(evaluation)
    write(evaluation, out)


def check_names(runs: Sequence[TrainedModel]) -> None:
    """Raise unless the runs can be told apart.

    Raises:
        ValueError: one is given twice, or two have the same name.
    """
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--run and --compare name {name} twice")


def make_folder(out: Path) -> None:
    """The folder of the report, made if need be.

    Raises:
        OSError: it cannot be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {out} cannot be made: {error.strerror}") from None


def check_tasks(paths: Sequence[str]) -> None:
    """Raise if a task cannot be read.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged; names the line.
    """
    from llm.evaluation import read_task

    for path in paths:
        read_task(path)


def made_with() -> str:
    """When, and with which versions."""
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("llm", "torch"))
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {packages}, Python {platform.python_version()}"


def print_figures(evaluation: Evaluation) -> None:
    """Print a table of the runs, with the baselines under each."""
    width = max(24, *(len(run.name) + 2 for run in evaluation.runs))
    print(f"\n{'':{width}}{'parameters':>14}{'nats/token':>12}{'perplexity':>12}{'bits/byte':>12}")
    shown = []
    for run in evaluation.runs:
        print_row(run.name, f"{run.num_parameters:,}", run.score, width)
        # of runs with one tokenizer and one training text they are the same
        if run.baselines in shown:
            continue
        shown.append(run.baselines)
        for name, score in run.baselines.items():
            print_row(f"  {name} model", "", score, width)
    for run in evaluation.runs:
        print(f"\n{run.name}")
        for task, scores in run.tasks.items():
            figures = [f"{name} {value:.4g}" for name, value in scores.items() if value is not None]
            print(f"  {task}: {', '.join(figures)}")
        print(textwrap.indent(run.generation.table(), "  "))
    for doubt in evaluation.doubts:
        print(f"\nMind: {doubt}")


def print_row(name: str, parameters: str, score: TextScore, width: int) -> None:
    """Print one row of the table."""
    print(
        f"{name:{width}}{parameters:>14}{score.loss:12.3f}{score.perplexity:12.1f}"
        f"{score.bits_per_byte:12.3f}"
    )


def write(evaluation: Evaluation, out: Path) -> None:
    """Write the figures and the report."""
    from experiments.shared.report import report
    from llm.core.files import write_json, write_text
    from llm.training.run_folder import EVALUATION_FILES

    figures, page = (out / name for name in EVALUATION_FILES)
    write_json(figures, evaluation.to_dict())
    write_text(page, report(evaluation))
    print(f"\nWritten:\n  {relative(figures)}\n  {relative(page)}")


if __name__ == "__main__":
    run_script(main)
