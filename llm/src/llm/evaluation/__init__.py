"""How good a model is, in units that compare across tokenizers."""

from llm.evaluation.baselines import unigram_loss
from llm.evaluation.metrics import bits_per_byte

__all__ = ["bits_per_byte", "unigram_loss"]
