"""The printable form of bytes that GPT-2's vocabulary files are written in.

Each byte is one printable character: itself where Latin-1 has a visible character for it, else
the next free one from U+0100 on (a space is `Ġ`, a newline `Ċ`).

Reference: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2),
section 2.2, and the vocabulary files released with it.
"""

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_INVISIBLE = [byte for byte in range(256) if byte not in _VISIBLE]

BYTE_TO_CHAR: dict[int, str] = {
    **{byte: chr(byte) for byte in _VISIBLE},
    **{byte: chr(0x100 + index) for index, byte in enumerate(_INVISIBLE)},
}
CHAR_TO_BYTE: dict[str, int] = {char: byte for byte, char in BYTE_TO_CHAR.items()}

# The order of the base vocabulary: by printable character, as tokenizers' BpeTrainer sorts it.
ALPHABET: list[int] = [CHAR_TO_BYTE[char] for char in sorted(CHAR_TO_BYTE)]

_PRINTABLE = frozenset(CHAR_TO_BYTE)
_LATIN1_TO_PRINTABLE = str.maketrans({chr(byte): char for byte, char in BYTE_TO_CHAR.items()})
_PRINTABLE_TO_LATIN1 = str.maketrans({char: chr(byte) for byte, char in BYTE_TO_CHAR.items()})


def to_printable(data: bytes) -> str:
    """Printable form of any bytes."""
    return data.decode("latin-1").translate(_LATIN1_TO_PRINTABLE)


def is_printable(token: str) -> bool:
    """Whether a token is the printable form of bytes."""
    return _PRINTABLE.issuperset(token)


def from_printable(token: str) -> bytes:
    """Bytes of a printable form.

    Raises:
        ValueError: a character stands for no byte.
    """
    if not is_printable(token):
        char = next(char for char in token if char not in CHAR_TO_BYTE)
        raise ValueError(f"{char!r} in token {token!r} stands for no byte")
    return token.translate(_PRINTABLE_TO_LATIN1).encode("latin-1")
