"""What a run needs, known before it: worked out from configurations, and five steps."""

from llm.core.flops import (
    forward_flops,
    kaplan_training_flops,
    palm_training_flops,
    training_flops,
)
from llm.core.model_size import ParameterCounts
from llm.preflight.generation_memory import (
    GenerationMemory,
    generation_memory,
    kv_bytes_per_token,
)
from llm.preflight.lower_bounds import least_forward_bytes, least_weight_bytes
from llm.preflight.timing import StepTimes, time_steps
from llm.preflight.training_memory import TrainingMemory, training_memory

__all__ = [
    "GenerationMemory",
    "ParameterCounts",
    "StepTimes",
    "TrainingMemory",
    "forward_flops",
    "generation_memory",
    "kaplan_training_flops",
    "kv_bytes_per_token",
    "least_forward_bytes",
    "least_weight_bytes",
    "palm_training_flops",
    "time_steps",
    "training_flops",
    "training_memory",
]
