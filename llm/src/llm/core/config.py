"""The base of every architecture's configuration."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from llm.core.model_size import KeptNumbers, ParameterCounts

T = TypeVar("T")
Config = TypeVar("Config", bound="ModelConfig")


def default(value: T | None, otherwise: T) -> T:
    """`value`, or `otherwise` where the configuration leaves it open with None."""
    return otherwise if value is None else value


def check_count(name: str, value: object, *, minimum: int = 1, maximum: int | None = None) -> None:
    """Raise unless `value` is a whole number of at least `minimum`, and at most `maximum`."""
    # bool is an int to Python: `num_layers=True` is a mistake all the same
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not fits or (maximum is not None and value > maximum):  # type: ignore[operator]
        limit = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name}={value!r} must be a whole number of at least {minimum}{limit}")


def check_flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False: "no" would be true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false")


def check_seed(seed: object) -> None:
    """Raise unless every random generator takes the seed."""
    check_count("seed", seed, minimum=0, maximum=2**63 - 1)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of the choices."""
    if value not in (choices := list(choices)):
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def check_number(name: str, value: object, *, low: float, high: float, inclusive: bool) -> None:
    """Raise unless `low <= value < high` (or `<= high`, if inclusive)."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not (low <= value < high or (inclusive and value == high)):  # type: ignore[operator]
        raise ValueError(
            f"{name}={value!r} must be in [{low:g}, {high:g}{']' if inclusive else ')'}"
        )


def build(cls: type[T], fields: Mapping[str, Any], *, name: str | None = None) -> T:
    """A dataclass from a mapping of its field names, strictly.

    `name` is what errors call it; None for the class's own.

    Raises:
        ValueError: a key is unknown (the nearest valid one is named) or a
            required one is missing.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
            raise ValueError(f"{name or cls.__name__} has no field {key!r}{hint}")
    missing = [
        key
        for key, field in known.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and key not in fields
    ]
    if missing:
        raise ValueError(f"{name or cls.__name__} needs {', '.join(missing)}")
    return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every decoder-only language model needs to know about itself.

    Args:
        vocab_size: number of token ids, V.
        embed_dim: residual width, C.
        num_heads: query heads, H; divides `embed_dim`.
        num_layers: decoder blocks.
        max_position_embeddings: longest sequence, in tokens.
        dropout: probability in [0, 1).
        initializer_range: standard deviation of the initial weights.
        tie_embeddings: the output projection shares the token embeddings' weight.
        bos_token_id: id that begins a document, or None.
        eos_token_id: id that ends one; generation stops there by default.
        pad_token_id: id that fills finished rows, or None.

    Raises:
        ValueError: a field is outside its range.
    """

    model_type: ClassVar[str]

    vocab_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    max_position_embeddings: int
    dropout: float = 0.1
    initializer_range: float = 0.02
    tie_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embed_dim", "num_heads", "num_layers"):
            check_count(name, getattr(self, name))
        check_count("max_position_embeddings", self.max_position_embeddings)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}"
            )
        check_number("dropout", self.dropout, low=0, high=1, inclusive=False)
        check_number(
            "initializer_range", self.initializer_range, low=0, high=float("inf"), inclusive=False
        )
        check_flag("tie_embeddings", self.tie_embeddings)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token_id = getattr(self, name)
            if token_id is not None:
                check_count(name, token_id, minimum=0)
                if token_id >= self.vocab_size:
                    raise ValueError(
                        f"{name}={token_id} is outside the vocabulary of {self.vocab_size} tokens"
                    )

    @property
    def parameters(self) -> ParameterCounts:
        """Parameters by part, worked out without building the model."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """Parameters of the model; a shared one counts once."""
        return self.parameters.total

    @property
    def multiplied_weights(self) -> int:
        """Matrix entries that a token is multiplied with on its way to logits, head included."""
        raise NotImplementedError

    @property
    def kept_numbers(self) -> KeptNumbers:
        """What a training forward keeps of each token for the backward."""
        raise NotImplementedError

    @property
    def cached_numbers(self) -> int:
        """Numbers that a token leaves in a `KVCache`: a key and a value in each layer."""
        return 2 * self.num_layers * self.embed_dim

    @classmethod
    def of(cls: type[Config], config: Config | Mapping[str, Any]) -> Config:
        """The configuration itself, or the one that a mapping describes."""
        if isinstance(config, cls):
            return config
        if isinstance(config, Mapping):
            return cls.from_dict(config)
        raise ValueError(
            f"expected a {cls.__name__} or a mapping of its fields, not {type(config).__name__}"
        )

    @classmethod
    def from_dict(cls: type[Config], fields: Mapping[str, Any]) -> Config:
        """Build the configuration from a mapping of its field names.

        Raises:
            ValueError: a key is unknown (the nearest valid one is named) or a
                required one is missing.
        """
        return build(cls, fields)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; `from_dict` reads it back."""
        return dataclasses.asdict(self)
