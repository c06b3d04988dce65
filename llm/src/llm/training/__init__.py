"""Datasets, the training loop and its checkpoints."""

from llm.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from llm.training.config import TrainingConfig
from llm.training.dataset import TextDataset, collate
from llm.training.errors import (
    BadStepError,
    LossSpikeError,
    NonFiniteLossError,
    OutOfMemoryError,
    TrainingStoppedError,
)
from llm.training.loss import count_targets, next_token_loss
from llm.training.metric_loggers import MetricLogger, MissingPackageError, flat_line
from llm.training.optimizer import get_optimizer
from llm.training.packing import PackedDocuments, document_attention_mask
from llm.training.ranks import Ranks, joined_ranks
from llm.training.resume_check import ResumeMismatchError, verify_resume
from llm.training.run_folder import RunInUseError, check_is_run, delete_run
from llm.training.run_summary import RunSummary
from llm.training.scheduler import cosine_schedule, linear_schedule
from llm.training.stream import ExampleStream, Mixture, ShuffledStream
from llm.training.trainer import Trainer
from llm.training.trainer_state import TrainerState
from llm.training.validation import ValidationResult, validate, validate_each

__all__ = [
    "BadStepError",
    "ExampleStream",
    "LossSpikeError",
    "MetricLogger",
    "MissingPackageError",
    "Mixture",
    "NonFiniteLossError",
    "OutOfMemoryError",
    "PackedDocuments",
    "Ranks",
    "ResumeMismatchError",
    "RunInUseError",
    "RunSummary",
    "ShuffledStream",
    "TextDataset",
    "Trainer",
    "TrainerState",
    "TrainingConfig",
    "TrainingStoppedError",
    "ValidationResult",
    "check_is_run",
    "collate",
    "cosine_schedule",
    "count_targets",
    "delete_run",
    "document_attention_mask",
    "flat_line",
    "get_optimizer",
    "joined_ranks",
    "linear_schedule",
    "list_checkpoints",
    "load_checkpoint",
    "next_token_loss",
    "save_checkpoint",
    "validate",
    "validate_each",
    "verify_checkpoint",
    "verify_resume",
]
