"""An evaluation as one page of HTML: no script, nothing loaded, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shared.evaluations import Curve, Evaluation, RunEvaluation
from experiments.shared.svg import Series, heat_map, line_chart

if TYPE_CHECKING:
    from llm.evaluation import TextScore
    from llm.evaluation.timed_generation import Latency

STYLE = Path(__file__).with_name("report.css")

# colours of the style sheet
COLOURS = 8
# of a heat map over a text, at the loss of a model that knows nothing
MOST_HEAT = 0.75

# what would leave a gap
VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def report(evaluation: Evaluation) -> str:
    """The page, with everything in it."""
    names = ", ".join(run.name for run in evaluation.runs)
    body = "\n".join(
        [
            f"<h1>Evaluation of {escape(names)}</h1>",
            f'<p class="quiet">{escape(evaluation.made)}</p>',
            *_figures(evaluation),
            *_curves(evaluation.runs),
            *_tasks(evaluation.runs),
            *_samples(evaluation.runs),
            *_losses(evaluation.runs),
            *_attention(evaluation.runs),
        ]
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {escape(names)}</title>
<style>
{STYLE.read_text("utf-8")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _figures(evaluation: Evaluation) -> Iterator[str]:
    text = evaluation.text
    yield "<h2>How well the text is predicted</h2>"
    yield (
        f"<p>{escape(text.name[:1].upper() + text.name[1:])}: {text.num_documents:,} documents, "
        f"{text.num_bytes:,} bytes of "
        f"UTF-8. Each document is read from its start, by windows of the model's context that "
        "overlap, so that every token is predicted once. Bits per byte compare across tokenizers "
        "and architectures; nats per token and perplexity only where the tokenizer is the same."
        "</p>"
    )
    rows, shown = [], []
    for run in evaluation.runs:
        trained = "" if run.trained_tokens is None else f"{run.trained_tokens:,}"
        about = (run.architecture, f"{run.num_parameters:,}", trained)
        rows.append(_row([run.name, *_score(run.score), *about]))
        # of runs with one tokenizer and one training text they are the same
        if run.baselines not in shown:
            shown.append(run.baselines)
            for name, score in run.baselines.items():
                cells = [f"{name}, in the tokens of {run.name}", *_score(score), "", "", ""]
                rows.append(_row(cells, "baseline"))
    yield _table(
        [
            *("run", "bits per byte", "nats per token", "perplexity", "tokens predicted"),
            *("model", "parameters", "tokens trained on"),
        ],
        rows,
    )
    for doubt in evaluation.doubts:
        yield f"<p><strong>Mind:</strong> {escape(doubt)}</p>"


def _score(score: TextScore) -> list[str]:
    return [
        f"{score.bits_per_byte:.4f}",
        f"{score.loss:.4f}",
        f"{score.perplexity:,.2f}",
        f"{score.num_targets:,}",
    ]


def _curves(runs: Sequence[RunEvaluation]) -> Iterator[str]:
    drawn = [(index, run) for index, run in enumerate(runs) if run.curve is not None]
    if not drawn:
        return
    yield "<h2>Curves</h2>"
    yield _legend(drawn)
    yield (
        '<p class="quiet">Lines with marks are of the validation text, thin lines of the training '
        "text, each run's own. Time is that of the training steps.</p>"
    )
    yield '<div class="plots">'
    for x_label, y_label, pick, in_bits in (
        ("tokens trained on", "loss, nats per token", "tokens", False),
        ("tokens trained on", "bits per byte", "tokens", True),
        ("seconds of training", "bits per byte", "seconds", True),
    ):
        series = []
        for index, run in drawn:
            assert run.curve is not None
            scale = run.bits_per_byte_of_loss if in_bits else 1.0
            series += _series(run.curve, run.name, index, pick, scale, training=not in_bits)
        if any(each.points for each in series):
            yield f"<figure>{line_chart(series, x_label=x_label, y_label=y_label)}</figure>"
    yield "</div>"


def _series(
    curve: Curve, name: str, index: int, pick: str, scale: float, *, training: bool
) -> list[Series]:
    def points(losses: Iterable[tuple[float, float, float]]) -> list[tuple[float, float]]:
        return [
            (tokens if pick == "tokens" else seconds, loss * scale)
            for tokens, seconds, loss in losses
        ]

    colour = index % COLOURS
    lines = [Series(name=name, points=points(curve.validation), colour=colour, marked=True)]
    if training:
        lines.insert(0, Series(name=name, points=points(curve.training), colour=colour))
    return lines


def _legend(drawn: Iterable[tuple[int, RunEvaluation]]) -> str:
    items = "".join(
        f'<li><span class="swatch" style="--colour:var(--series-{index % COLOURS})"></span>'
        f"{escape(run.name)}</li>"
        for index, run in drawn
    )
    return f'<ul class="legend">{items}</ul>'


def _tasks(runs: Sequence[RunEvaluation]) -> Iterator[str]:
    for task in runs[0].tasks:
        yield f"<h2>Task {escape(task)}</h2>"
        columns = list(runs[0].tasks[task])
        rows = [
            _row([run.name, *(_number(run.tasks[task][column]) for column in columns)])
            for run in runs
        ]
        yield _table(["run", *columns], rows)


def _samples(runs: Sequence[RunEvaluation]) -> Iterator[str]:
    yield "<h2>Samples</h2>"
    yield (
        "<p>Figures are of all samples, distinct-n and the rest of their words; a repetition-4 of "
        "1 would be the same four words throughout, a self-BLEU of 1 the same text in every "
        "sample. Milliseconds are the median, and what 95% do not exceed.</p>"
    )
    rows = []
    for run in runs:
        variety, speed = run.generation.variety, run.generation.speed
        shares = (variety.distinct_1, variety.distinct_2, variety.repetition_4, variety.self_bleu)
        rows.append(
            _row(
                [
                    *(run.name, *map(_number, shares), _number(speed.tokens_per_second)),
                    *map(_milliseconds, (speed.prefill, speed.token)),
                ]
            )
        )
    columns = ["distinct-1", "distinct-2", "repetition-4", "self-BLEU", "tokens/s", "prefill, ms"]
    yield _table(["run", *columns, "token, ms"], rows)
    for index, prompt in enumerate(runs[0].generation.prompts):
        yield f'<h3>“{escape(prompt)}”</h3><div class="samples">'
        for run in runs:
            yield (
                f'<div class="card"><p class="quiet">{escape(run.name)}</p><p class="text">'
                f"<strong>{escape(prompt)}</strong>{escape(run.generation.texts[index][0])}</p>"
                "</div>"
            )
        yield "</div>"


def _losses(runs: Sequence[RunEvaluation]) -> Iterator[str]:
    yield "<h2>Loss by token</h2>"
    yield (
        "<p>The passage is the beginning of the text. A token has the stronger colour, the more "
        "nats it cost the model: none <span class='scale'></span> as a model that knows nothing. "
        "Its figures appear where the pointer rests.</p>"
    )
    for run in runs:
        losses = run.token_losses
        spans = []
        for token, loss, entropy in zip(
            losses.tokens, losses.losses, losses.entropies, strict=True
        ):
            if math.isnan(loss):
                spans.append(escape(token))
                continue
            heat = min(1.0, loss / run.uniform_loss) * MOST_HEAT
            title = f"{visible(token)}: loss {loss:.2f}, entropy {entropy:.2f} nats"
            spans.append(
                f'<span style="--heat:{heat:.2f}" title="{escape(title)}">{escape(token)}</span>'
            )
        yield f"<h3>{escape(run.name)}</h3>"
        yield f'<div class="card passage text">{"".join(spans)}</div>'


def _attention(runs: Sequence[RunEvaluation]) -> Iterator[str]:
    yield "<h2>Attention</h2>"
    yield (
        "<p>A row is a token that attends, a column one that it attends to. Each map's "
        "strongest colour is its own largest weight.</p>"
    )
    for run in runs:
        maps = run.attention
        labels = [visible(token) for token in maps.tokens]
        for layer in maps.layers:
            yield f'<h3>{escape(run.name)}, layer {layer}</h3><div class="maps">'
            for head, weights in enumerate(maps.layer(layer)):
                title = f"{run.name}, layer {layer}, head {head}"
                picture = heat_map(weights.tolist(), labels, title=title)
                yield f"<figure>{picture}<figcaption>head {head}</figcaption></figure>"
            yield "</div>"


def visible(token: str, *, most: int = 12) -> str:
    """A token as a label: spaces and line ends have a shape, and what is long an end."""
    token = "".join(VISIBLE.get(char, char) for char in token)
    return token if len(token) <= most else token[: most - 1] + "…"


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{cells}</tr>{"".join(rows)}</table></div>'


def _row(cells: Iterable[str], kind: str = "") -> str:
    inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _milliseconds(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    return f"{1000 * latency.median:.2f}, {1000 * latency.p95:.2f}"
