"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO


def publish(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Flush an open file to disk, close it, and give it its name, durably."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    if os.name == "nt":  # Windows opens no folders, and keeps names by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in `path`'s place, durably."""
    temporary = temporary_name(path)
    file = open(temporary, "wb")  # noqa: SIM115 (publish closes it before the rename)
    with file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
        publish(file, temporary, path)


def temporary_name(path: Path) -> Path:
    """Where a file is written before it has its name: beside it."""
    return path.with_name(f".{path.name}.tmp")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
