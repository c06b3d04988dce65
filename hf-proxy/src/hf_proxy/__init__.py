"""`llm` models and tokenizers as `transformers` models and tokenizers, and back.

Importing it makes transformers' `Auto*` classes know them.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_proxy.hf_adapter import HFAdapter, HFAdapterModel
from hf_proxy.hf_config import HFAdapterConfig
from hf_proxy.hf_evaluation import hf_text_model, perplexity
from hf_proxy.hf_tokenizer import HFTokenizerAdapter, register_tokenizer
from hf_proxy.hf_utils import (
    ExportCertificate,
    create_hf_pipeline,
    export_native,
    load_llm_model,
)

__all__ = [
    "ExportCertificate",
    "HFAdapter",
    "HFAdapterConfig",
    "HFAdapterModel",
    "HFTokenizerAdapter",
    "create_hf_pipeline",
    "export_native",
    "hf_text_model",
    "load_llm_model",
    "perplexity",
]

AutoConfig.register(HFAdapterConfig.model_type, HFAdapterConfig, exist_ok=True)
AutoModel.register(HFAdapterConfig, HFAdapterModel, exist_ok=True)
AutoModelForCausalLM.register(HFAdapterConfig, HFAdapter, exist_ok=True)
register_tokenizer(HFAdapterConfig)
# by this table the Trainer's label smoothing and the pipelines know a language model
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[HFAdapterConfig.model_type] = HFAdapter.__name__
