"""Reading JSON that may be damaged: every complaint names the file and the field."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeAlias

Json: TypeAlias = dict[str, Any]

_REQUIRED = object()
_KIND_NAMES = {
    bool: "true or false",
    dict: "an object",
    int: "an integer",
    list: "an array",
    str: "a string",
}


def parse_json(text: str, source: str) -> object:
    """Parse JSON strictly.

    Raises:
        ValueError: the text is no JSON, or an object has a key twice; the message names `source`.
    """

    def unique(pairs: list[tuple[str, object]]) -> Json:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = set()
            for key, _ in pairs:
                if key in keys:
                    raise ValueError(f"{source}: the key {key!r} occurs twice in one object")
                keys.add(key)
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is not valid JSON (damaged or truncated?): {error}") from error


class JsonNode:
    """A value of a JSON document that knows where it stands."""

    def __init__(self, value: object, source: str, path: str = "") -> None:
        """Take a value.

        Args:
            value: parsed JSON.
            source: name of the file.
            path: the field within it, empty for the whole document.
        """
        self.here: Any = value
        self.source = source
        self.path = path

    def fail(self, problem: str) -> NoReturn:
        """Raise a ValueError about this value."""
        raise ValueError(f"{self.source}: {self.path + ' ' if self.path else ''}{problem}")

    def value(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value of a key; null and a missing key are the default, if there is one."""
        value = self._object().get(key)
        if value is None and default is not _REQUIRED:
            return default
        if type(value) is not kind:
            found = _shown(value) if key in self.here else "missing"
            self.fail(f"{key} is {found}, not {_KIND_NAMES[kind]}")
        return value

    def child(self, key: str, default: Any = _REQUIRED) -> Any:
        """The object at a key as a node, or the default."""
        value = self.value(key, dict, default)
        return value if value is default else self._child(value, key)

    def items(self, key: str, default: Any = _REQUIRED) -> list[JsonNode]:
        """The entries of the array at a key, as nodes."""
        values = self.value(key, list, default)
        return [self._child(value, f"{key}[{index}]") for index, value in enumerate(values)]

    def steps(self, key: str) -> list[JsonNode]:
        """The steps of a `Sequence`, those of nested ones too; of anything else, itself."""
        if self.value("type", str) != "Sequence":
            return [self]
        return [step for item in self.items(key) for step in item.steps(key)]

    def only(self, key: str, *allowed: object) -> None:
        """Fail unless the value of a key is one of those (that of a missing key is None)."""
        value = self._object().get(key)
        if not any(type(value) is type(one) and value == one for one in allowed):
            self.fail(f"{key}={_shown(value)} is not supported")

    def children(self) -> list[tuple[str, JsonNode]]:
        """Keys of the object and their values as nodes."""
        return [(key, self._child(value, key)) for key, value in self._object().items()]

    def value_node(self, key: str) -> JsonNode:
        """The value of a key as a node, of whatever kind; that of a missing key is None."""
        return self._child(self._object().get(key), key)

    def as_id(self) -> int:
        """The value itself, a token id."""
        if type(self.here) is not int or self.here < 0:
            self.fail(f"is {_shown(self.here)}, not an integer from 0")
        return int(self.here)

    def _child(self, value: object, step: str) -> JsonNode:
        return JsonNode(value, self.source, f"{self.path}.{step}" if self.path else step)

    def _object(self) -> Json:
        if not isinstance(self.here, dict):
            self.fail(f"is {_shown(self.here)}, not an object")
        return self.here


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
