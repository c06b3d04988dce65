"""Plots of what the functions of this package return.

Each is a `matplotlib.figure.Figure` of its own: nothing is shown, and neither pyplot nor the
back-end is touched. `figure.savefig(path)` writes it; as the result of a notebook's cell it
is displayed after `%matplotlib inline`. Where a text has more tokens than there is room for
labels, every second is named, or every third, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "llm.inspection.plots needs matplotlib, which is not installed: install llm[plots], or "
        "matplotlib itself"
    ) from error

import numpy as np

from llm.inspection.attention import AttentionMaps
from llm.inspection.logit_lens import LogitLens
from llm.inspection.neighbours import Neighbours
from llm.inspection.norms import ParameterNorms
from llm.inspection.plot_labels import name_tokens, token_labels
from llm.inspection.token_losses import TokenLosses

# inches that a token has, and that a figure may measure at most
_TOKEN, _MAX_SIZE = 0.25, 40.0


def plot_attention(maps: AttentionMaps, *, layer: int, head: int | None = None) -> Figure:
    """The map of one head of a layer, or of all of them side by side.

    A row is a token that attends, a column one that is attended to.

    Args:
        maps: what `attention_maps` returned.
        layer: of the model, counted from 0, among `maps.layers`.
        head: counted from 0; None for all.

    Raises:
        ValueError: there is no such layer or head.
    """
    shown = maps.layer(layer) if head is None else maps.head(layer, head)[None]  # (H, T, T)
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    most = (_MAX_SIZE - 1) / max(rows, columns)
    side = min(_length(len(maps.tokens), 1.5), most)
    figure = _figure(columns * side + 1, rows * side)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for index, axes in enumerate(grid):
        if index >= len(shown):
            axes.set_axis_off()
            continue
        image = axes.imshow(shown[index], cmap="Blues", vmin=0, vmax=shown.max())
        axes.set_title(f"layer {layer}, head {index if head is None else head}")
        name_tokens(axes.xaxis, maps.tokens, room=side, rotation=90)
        name_tokens(axes.yaxis, maps.tokens, room=side)
        axes.set_xlabel("attended to")
        axes.set_ylabel("attending")
    figure.colorbar(image, ax=grid.tolist(), label="attention weight", shrink=0.8)
    return figure


def plot_logit_lens(lens: LogitLens) -> Figure:
    """The likeliest next token after each token, and its probability, depth by depth.

    Of a text of more than 50 tokens the colours alone are drawn.
    """
    best = lens.top_probabilities[:, :, 0]  # (depths, T)
    figure = _figure(_length(len(lens.tokens), 2.5, 0.75), _length(len(lens.depths), 1.6, 0.35))
    axes = figure.subplots()
    image = axes.imshow(best, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    if len(lens.tokens) <= 50:
        _write_guesses(axes, lens)
    name_tokens(axes.xaxis, lens.tokens, room=figure.get_figwidth(), rotation=45)
    names = ["embeddings" if depth == 0 else f"after block {depth - 1}" for depth in lens.depths]
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("token read")
    axes.set_ylabel("depth")
    axes.set_title("logit lens: the likeliest next token")
    figure.colorbar(image, ax=axes, label="its probability")
    return figure


def _write_guesses(axes: Axes, lens: LogitLens) -> None:
    for row, ranked_by_token in enumerate(lens.top_tokens):
        guesses = token_labels((ranked[0] for ranked in ranked_by_token), max_characters=8)
        for column, guess in enumerate(guesses):
            is_dark = lens.top_probabilities[row, column, 0] > 0.6
            text = axes.text(column, row, guess, fontsize=8, ha="center", va="center")
            text.set_color("white" if is_dark else "black")
            text.set_parse_math(False)


def plot_token_losses(losses: TokenLosses) -> Figure:
    """Loss of each token, and the entropy of the prediction: what loss was expected."""
    figure = _figure(_length(len(losses.tokens), 1.5), 3.5)
    axes = figure.subplots()
    places = np.arange(len(losses.tokens))
    axes.bar(places, losses.losses, color="tab:blue", alpha=0.7, label="loss")
    axes.plot(places, losses.entropies, "o", color="tab:red", markersize=4, label="entropy")
    name_tokens(axes.xaxis, losses.tokens, room=figure.get_figwidth(), rotation=90)
    axes.set_xlim(-0.7, len(places) - 0.3)
    axes.set_xlabel("token (the first is not predicted)")
    axes.set_ylabel("nats")
    axes.set_title("loss and entropy by token")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    return figure


def plot_neighbours(neighbours: Neighbours) -> Figure:
    """Cosines of a token's nearest neighbours, the nearest at the top."""
    figure = _figure(5, _length(len(neighbours.tokens), 1.2))
    axes = figure.subplots()
    axes.barh(range(len(neighbours.tokens)), neighbours.similarities, color="tab:blue", alpha=0.7)
    axes.invert_yaxis()
    name_tokens(axes.yaxis, neighbours.tokens, room=figure.get_figheight())
    axes.set_xlabel("cosine of the embeddings")
    axes.set_ylabel("token")
    axes.set_title(f"neighbours of {token_labels([neighbours.token])[0]}", parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def plot_norms(norms: Mapping[str, ParameterNorms], *, ylabel: str = "norm") -> Figure:
    """Norms by layer, a line for each entry, on a logarithmic scale if none is zero.

    Args:
        norms: by what the legend calls them, at least one: models to compare, or weights
            and gradients of one.
        ylabel: what they are norms of.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not norms:
        raise ValueError("norms is empty")
    by_layer = {label: each.by_layer() for label, each in norms.items()}
    layers: list[str] = []
    for each in sorted(by_layer.values(), key=len, reverse=True):
        layers += [layer for layer in each if layer not in layers]
    figure = _figure(_length(len(layers), 2.5, 0.4), 4)
    axes = figure.subplots()
    for label, each in by_layer.items():
        heights = [each.get(layer, math.nan) for layer in layers]
        axes.plot(range(len(layers)), heights, "o-", markersize=4, label=label)
    if all(norm > 0 for each in by_layer.values() for norm in each.values()):
        axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
    axes.set_xlabel("layer")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(min(width, _MAX_SIZE), min(height, _MAX_SIZE)), layout="constrained")


def _length(number: int, margin: float, each: float = _TOKEN) -> float:
    return max(3.0, margin + each * number)
