"""How much memory there is."""

from pathlib import Path

import pytest
import torch

from llm.core import memory
from llm.core.device import device_memory


def test_the_machine_has_the_memory_that_the_system_says():
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("there is no /proc/meminfo to compare with")
    total = int(meminfo.read_text().split()[1]) * 1024
    assert 0 < memory.machine_memory() <= total
    assert device_memory(torch.device("cpu")) == memory.machine_memory()


@pytest.mark.parametrize(("content", "expected"), [("4096\n", 4096), ("max\n", None)])
def test_a_container_may_have_less(tmp_path, monkeypatch, content, expected):
    monkeypatch.setattr(memory, "CONTAINER_LIMIT", tmp_path / "nowhere")
    whole = memory.machine_memory()
    (tmp_path / "limit").write_text(content)
    monkeypatch.setattr(memory, "CONTAINER_LIMIT", tmp_path / "limit")
    assert memory.machine_memory() == (expected or whole)
