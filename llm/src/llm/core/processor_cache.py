"""How much fits the caches of a processor: work done in such parts does not wait for memory."""

from __future__ import annotations

import torch

# float32 numbers that fit one core's
CORE_NUMBERS = 2**18
# half of the 32 MiB above which glibc asks the system for fresh pages each time
MOST_NUMBERS = 2**22


def numbers_in_caches() -> int:
    """How many float32 numbers the caches of the cores at work hold."""
    return min(CORE_NUMBERS * torch.get_num_threads(), MOST_NUMBERS)
