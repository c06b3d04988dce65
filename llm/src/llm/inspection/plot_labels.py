"""Tokens as labels of a plot: every character visible, and none that the font lacks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties, findfont, get_font

# characters that would leave a gap
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
# inches that a label needs
_LABEL = 0.15


def token_labels(tokens: Iterable[str], *, max_characters: int = 16) -> list[str]:
    r"""Label of each token.

    A space is ␣, a line break ↵ and a tab ⇥; what has no shape, or none in the fonts that
    matplotlib is set to, is written as `\u4e2d`. Of more than `max_characters` the first are
    kept, and … stands for the rest.
    """
    fonts = tuple(findfont(FontProperties(family=[name])) for name in FontProperties().get_family())
    return [_label(token, fonts, max_characters) for token in tokens]


def name_tokens(axis: Axis, tokens: Sequence[str], *, room: float, rotation: float = 0) -> None:
    """Name the tokens at 0, 1, … of an axis, or every n-th where `room` inches hold no more."""
    step = math.ceil(len(tokens) * _LABEL / room)
    places = range(0, len(tokens), step)
    # a dollar sign in a token is one, and no mathematics
    axis.set_ticks(places, token_labels(tokens[::step]), rotation=rotation, parse_math=False)
    axis.set_tick_params(labelsize=8)


def _label(token: str, fonts: tuple[str, ...], max_characters: int) -> str:
    if len(token) > max_characters:
        token = token[: max_characters - 1] + "…"
    return "".join(_visible(_VISIBLE.get(char, char), fonts) for char in token)


@cache
def _visible(char: str, fonts: tuple[str, ...]) -> str:
    # not control, format and private characters, surrogates, and other kinds of space
    has_shape = unicodedata.category(char)[0] not in "CZ"
    if has_shape and any(ord(char) in _code_points(font) for font in fonts):
        return char
    return char.encode("unicode_escape").decode("ascii")


@cache
def _code_points(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())
