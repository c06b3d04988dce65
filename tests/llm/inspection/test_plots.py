"""Plots: the labels that a figure has, and that every one of them is drawn."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import imread

from llm.inspection import (
    AttentionMaps,
    LogitLens,
    Neighbours,
    TokenLosses,
    attention_maps,
    embedding_neighbours,
    gradient_norms,
    logit_lens,
    plots,
    token_losses,
    weight_norms,
)
from llm.inspection.plot_labels import token_labels

TEXT = "Кошка щи"
LABELS = ["К", "о", "ш", "ка", "␣\\xd1", "\\x89", "и"]


def png(figure):
    """The rendered pixels; a warning, of a glyph that is missing too, is an error."""
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # of old releases of matplotlib, about what they import
        warnings.simplefilter("ignore", DeprecationWarning)
        figure.savefig(buffer, format="png")
    buffer.seek(0)
    pixels = imread(buffer)
    assert np.ptp(pixels[..., :3]) > 0.5
    return pixels


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_attention_names_the_tokens_on_both_sides(model, tokenizer):
    maps = attention_maps(model, tokenizer, TEXT)
    figure = plots.plot_attention(maps, layer=1, head=0)
    axes, bar = figure.axes
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == LABELS
    assert axes.get_title() == "layer 1, head 0"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("attended to", "attending")
    assert bar.get_ylabel() == "attention weight"
    np.testing.assert_array_equal(axes.images[0].get_array(), maps.head(1, 0))
    png(figure)


def test_attention_of_a_layer_has_a_map_for_each_head_on_one_scale(make_model, tokenizer):
    model = make_model("gpt", vocab_size=300, num_heads=6)
    maps = attention_maps(model, tokenizer, TEXT)
    figure = plots.plot_attention(maps, layer=0)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [f"layer 0, head {h}" for h in range(6)]
    for head, axes in enumerate(drawn):
        np.testing.assert_array_equal(axes.images[0].get_array(), maps.head(0, head))
        assert axes.images[0].get_clim() == (0, maps.layer(0).max())
    png(figure)


def test_a_head_or_layer_that_is_not_there_is_an_error(model, tokenizer):
    maps = attention_maps(model, tokenizer, TEXT, layers=[1])
    with pytest.raises(ValueError, match="layer=0"):
        plots.plot_attention(maps, layer=0)
    with pytest.raises(ValueError, match="head=9"):
        plots.plot_attention(maps, layer=1, head=9)


def test_the_lens_names_what_is_read_each_depth_and_each_guess(model, tokenizer):
    lens = logit_lens(model, tokenizer, TEXT, depths=[0, 2])
    figure = plots.plot_logit_lens(lens)
    axes, bar = figure.axes
    assert ticks(axes.xaxis) == LABELS
    assert ticks(axes.yaxis) == ["embeddings", "after block 1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("token read", "depth")
    assert bar.get_ylabel() == "its probability"
    cells = [text.get_text() for text in axes.texts]
    guesses = [ranked[0] for row in lens.top_tokens for ranked in row]
    assert cells == token_labels(guesses, max_characters=8)
    png(figure)


def test_a_long_lens_has_colours_alone(make_model, tokenizer):
    """Written into 51 cells, guesses would lie across one another."""
    model = make_model("gpt", vocab_size=300, max_position_embeddings=51)
    for length, written in ((50, 3 * 50), (51, 0)):
        lens = logit_lens(model, tokenizer, list(range(length)))
        axes, _ = plots.plot_logit_lens(lens).axes
        assert len(axes.texts) == written


def test_losses_name_the_tokens_and_the_unit(model, tokenizer):
    losses = token_losses(model, tokenizer, TEXT)
    figure = plots.plot_token_losses(losses)
    (axes,) = figure.axes
    assert ticks(axes.xaxis) == LABELS
    assert axes.get_ylabel() == "nats"
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"loss", "entropy"}
    heights = [patch.get_height() for patch in axes.patches]
    np.testing.assert_array_equal(heights, losses.losses)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), losses.entropies)
    png(figure)


def test_neighbours_name_the_tokens_the_nearest_at_the_top(model, tokenizer):
    neighbours = embedding_neighbours(model, tokenizer, "ка", k=4)
    figure = plots.plot_neighbours(neighbours)
    (axes,) = figure.axes
    assert axes.get_title() == "neighbours of ка"
    assert ticks(axes.yaxis) == token_labels(neighbours.tokens)
    assert axes.get_xlabel() == "cosine of the embeddings"
    assert axes.yaxis.get_inverted()
    assert [bar.get_width() for bar in axes.patches] == neighbours.similarities.tolist()
    png(figure)


def test_norms_name_the_layers_of_models_that_differ(make_model):
    norms = {name: weight_norms(make_model(name)) for name in ("gpt", "gpt2")}
    figure = plots.plot_norms(norms, ylabel="norm of the weights")
    (axes,) = figure.axes
    layers = list(norms["gpt2"].by_layer())
    assert ticks(axes.xaxis) == layers
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "norm of the weights")
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["gpt", "gpt2"]
    for line, each in zip(axes.lines, norms.values(), strict=True):
        expected = [each.by_layer().get(layer, np.nan) for layer in layers]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    png(figure)
    with pytest.raises(ValueError, match="norms is empty"):
        plots.plot_norms({})


def test_a_norm_of_zero_is_drawn(make_model, random_ids):
    """On a logarithmic scale it would be left out."""
    model = make_model("gpt2")
    model.lm_head.weight.requires_grad_(False)
    model.lm_head.weight.zero_()
    ids = random_ids(43, 2, 8)
    figure = plots.plot_norms({"gpt2": gradient_norms(model, {"input_ids": ids, "labels": ids})})
    assert figure.axes[0].get_yscale() == "linear"


def test_labels_show_every_character_or_its_number():
    tokens = [" ш", "\n\t", "\x00", "a\u00a0b", "\u200b", "中", "🦊", "\\xd0", "Ж" * 40]
    assert token_labels(tokens) == [
        *("␣ш", "↵⇥", "\\x00", "a\\xa0b", "\\u200b", "\\u4e2d", "\\U0001f98a", "\\xd0"),
        "Ж" * 15 + "…",
    ]


def test_labels_follow_the_fonts_that_matplotlib_is_set_to():
    """STIX has this letter, and DejaVu Sans has not."""
    assert token_labels(["\U0001d6a4"]) == ["\\U0001d6a4"]
    with rc_context({"font.family": ["DejaVu Sans", "STIXGeneral"]}):
        assert token_labels(["\U0001d6a4"]) == ["\U0001d6a4"]


def test_any_token_can_be_drawn_and_a_dollar_is_no_mathematics():
    tokens = ("$", "$\\frac$", "$x$", "Ё$", "中", "🦊", "\x07", "\ud800", "%", "")
    number = len(tokens)
    maps = AttentionMaps(tokens=tokens, layers=(0,), weights=np.eye(number)[None, None])
    figure = plots.plot_attention(maps, layer=0)
    assert ticks(figure.axes[0].xaxis)[:4] == ["$", "$\\frac$", "$x$", "Ё$"]
    png(figure)
    neighbours = Neighbours(
        token="$\\frac$",
        tokens=tokens,
        token_ids=np.arange(number),
        similarities=np.ones(number, dtype=np.float32),
    )
    png(plots.plot_neighbours(neighbours))
    lens = LogitLens(
        tokens=tokens,
        depths=(0,),
        logits=np.zeros((1, number, 1), dtype=np.float32),
        top_ids=np.zeros((1, number, 1), dtype=np.int64),
        top_probabilities=np.ones((1, number, 1), dtype=np.float32),
        top_tokens=(tuple((token,) for token in tokens),),
    )
    png(plots.plot_logit_lens(lens))
    heights = np.ones(number, dtype=np.float32)
    png(
        plots.plot_token_losses(
            TokenLosses(
                tokens=tokens,
                token_ids=np.arange(number),
                losses=heights,
                entropies=heights,
            )
        )
    )


def test_a_long_text_has_a_figure_that_can_be_drawn_and_names_some_tokens():
    length = 500
    tokens = tuple(f"и{number}" for number in range(length))
    weights = np.eye(length, dtype=np.float32)[None, None].repeat(5, axis=1)
    maps = AttentionMaps(tokens=tokens, layers=(0,), weights=weights)
    figure = plots.plot_attention(maps, layer=0)
    assert max(figure.get_size_inches()) <= 40
    axis = figure.axes[0].xaxis
    places, width = axis.get_ticklocs().astype(int).tolist(), figure.get_size_inches()[0] / 4
    assert len(places) > 30
    assert width / len(places) > 0.1, "labels in each other's way, in inches"
    assert ticks(axis) == [tokens[place] for place in places]


CHECK = """
import sys
import llm.inspection
assert not any(name.startswith("matplotlib") for name in sys.modules), "imported unasked"
from llm.inspection import plots
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
# where none is chosen, reading the settings would choose one, through pyplot
matplotlib.use("pdf")
before = dict(matplotlib.rcParams)
import numpy as np
maps = llm.inspection.AttentionMaps(tokens=("a",), layers=(0,), weights=np.ones((1, 1, 1, 1)))
plots.plot_attention(maps, layer=0)
assert "matplotlib.pyplot" not in sys.modules
assert dict(matplotlib.rcParams) == before
for name in [name for name in sys.modules if name.startswith(("matplotlib", "llm.inspection"))]:
    del sys.modules[name]
sys.modules["matplotlib"] = None
import llm.inspection
try:
    from llm.inspection import plots
except ImportError as error:
    assert "llm[plots]" in str(error), error
else:
    raise AssertionError("plots without matplotlib")
print("checked")
"""


@pytest.mark.slow
def test_matplotlib_is_of_the_plots_alone_and_pyplot_is_left_alone():
    result = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=False
    )
    assert result.stdout == "checked\n", result.stderr
