"""Tasks of one's own, multiple choice and cloze, and the files that they are read from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.core.config import build, check_count
from llm.core.files import read_bytes
from llm.tokenizers._surrogates import is_unicode


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question of which one choice is right.

    Args:
        context: what the choices continue; may be empty.
        choices: two or more, none empty.
        answer: index of the right one, from 0.
        source: where it stands, for errors to name.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    source: str = ""

    def __post_init__(self) -> None:
        _check_text("context", self.context)
        if not isinstance(self.choices, (list, tuple)) or len(self.choices) < 2:
            raise ValueError(f"choices={self.choices!r} must be a list of two or more texts")
        for index, choice in enumerate(self.choices):
            _check_text(f"choices[{index}]", choice, may_be_empty=False)
        check_count("answer", self.answer, minimum=0, maximum=len(self.choices) - 1)
        # a list comes of JSON, and would let a frozen example change
        object.__setattr__(self, "choices", tuple(self.choices))


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """A text whose end is to be found.

    Args:
        context: what the answer continues; may be empty.
        answer: the end, not empty.
        source: where it stands, for errors to name.
    """

    context: str
    answer: str
    source: str = ""

    def __post_init__(self) -> None:
        _check_text("context", self.context)
        _check_text("answer", self.answer, may_be_empty=False)


def read_task(path: str | Path) -> list[Choice] | list[Cloze]:
    """Read a JSONL file, one example a line; empty lines are passed over.

    `{"context": "The cat sat on the", "choices": ["mat", "moon"], "answer": 0}` is
    multiple choice, `{"context": "Съешь же ещё этих мягких французских", "answer":
    "булок"}` cloze; a file is one of them throughout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not such an object (names file and line), or there is none.
    """
    path = Path(path)
    examples: list[Any] = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            examples.append(_read_line(line, f"{path}, line {number}", examples))
        except json.JSONDecodeError as error:
            # its own text would speak of line 1
            problem = f"not valid JSON: {error.msg} at column {error.colno}"
            raise ValueError(f"{path}, line {number}: {problem}") from None
        except ValueError as error:  # of UTF-8 too
            raise ValueError(f"{path}, line {number}: {error}") from None
        except RecursionError:
            raise ValueError(f"{path}, line {number}: the JSON is nested too deeply") from None
    if not examples:
        raise ValueError(f"{path} holds no examples: give one JSON object a line")
    return examples


def example_names(examples: Sequence[Choice | Cloze]) -> list[str]:
    """What errors call the examples.

    Raises:
        ValueError: there are none.
    """
    if not examples:
        raise ValueError("there are no examples to score")
    return [example.source or f"examples[{index}]" for index, example in enumerate(examples)]


def _read_line(line: bytes, source: str, examples: Sequence[Choice | Cloze]) -> Choice | Cloze:
    fields = json.loads(line.decode("utf-8-sig"))
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__}, not an object")
    if "source" in fields:
        raise ValueError("an example has no field 'source' in a file: it is the file's line")
    fields["source"] = source
    example: Choice | Cloze
    if "choices" in fields:
        example = build(Choice, fields, name="a multiple-choice example")
    else:
        example = build(Cloze, fields, name="a cloze example")
    if examples and type(examples[0]) is not type(example):
        raise ValueError("multiple choice and cloze are mixed: give each a file of its own")
    return example


def _check_text(name: str, value: object, *, may_be_empty: bool = True) -> None:
    if not isinstance(value, str) or not (value or may_be_empty):
        raise ValueError(f"{name}={value!r} must be text{'' if may_be_empty else ', not empty'}")
    # JSON can write half of a character, as "\ud83d"; no tokenizer has seen one
    if not is_unicode(value):
        raise ValueError(f"{name}={value!r} holds half of a character, which is not Unicode text")
