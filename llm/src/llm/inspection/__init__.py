"""A look inside: what a model attends to, predicts on the way, finds hard and embeds alike.

Everything is read through hooks and arguments that the models have, and comes as arrays with
the texts of the tokens. `llm.inspection.plots` draws it, and needs matplotlib.
"""

from llm.inspection.attention import AttentionMaps, attention_maps, recorded_attention
from llm.inspection.logit_lens import LogitLens, logit_lens, recorded_residual_stream
from llm.inspection.neighbours import Neighbours, embedding_neighbours
from llm.inspection.norms import ParameterNorms, gradient_norms, weight_norms
from llm.inspection.token_losses import TokenLosses, token_losses
from llm.inspection.tokens import token_texts

__all__ = [
    "AttentionMaps",
    "LogitLens",
    "Neighbours",
    "ParameterNorms",
    "TokenLosses",
    "attention_maps",
    "embedding_neighbours",
    "gradient_norms",
    "logit_lens",
    "recorded_attention",
    "recorded_residual_stream",
    "token_losses",
    "token_texts",
    "weight_norms",
]
