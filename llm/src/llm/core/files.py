"""Files that are whole or not there, whatever happens while they are written.

Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

# of what is read whole, nothing comes near it
LARGEST_READ = 1 << 30


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside `path`, flush it to disk, and put it in `path`'s place.

    A crash leaves the old file or the new one, never a part of one.
    """
    # by process: two that write one file at a time leave that of the later
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            publish(file, temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Flush an open file to disk, close it, and give it its name, durably."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    os.replace(temporary, path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 in `path`'s place, line ends as they are."""
    content = text.encode("utf-8")
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable UTF-8 JSON in `path`'s place."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def check_regular(path: Path) -> None:
    """Raise unless a file is there that begins and ends, as a pipe or a device need not.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is not a regular file.
        OSError: it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe or a device"
        raise ValueError(f"{path} is not a regular file, but a {kind}")


def read_bytes(path: Path) -> bytes:
    """The content of a file of settings, an index or a vocabulary.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, or has more than 2^30 bytes.
        OSError: it cannot be read.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > LARGEST_READ:
        raise ValueError(f"{path} is too large to be read whole: it has {size:,} bytes")
    return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, not UTF-8 JSON, nested too deeply, or not an object.
    """
    text = read_bytes(path)
    try:
        content = json.loads(text)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not read: its JSON is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    # a folder cannot be opened for writing; Windows cannot open one at all
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
