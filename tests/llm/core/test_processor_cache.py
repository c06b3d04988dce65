"""How much is worked on at a time."""

import torch

from llm.core.processor_cache import numbers_in_caches


def test_each_core_brings_its_cache(monkeypatch):
    for threads, numbers in [(1, 2**18), (2, 2**19), (64, 2**22)]:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert numbers_in_caches() == numbers
