"""Transformers' own common suites on GPT, GPT-2 and the tokenizer; `hf_conformance.py` runs them.

One tester serves them all: the reference is HuggingFace's GPT-2 of the same sizes.
"""

import json
import shutil
import tempfile
import unittest

from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import GenerationTesterMixin, ModelTesterMixin, ids_tensor
from tests.test_tokenization_common import TokenizerTesterMixin
from tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin
from tests.test_training_mixin import TrainingTesterMixin
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, GPT2Tokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_proxy import HFAdapter, HFAdapterConfig, HFAdapterModel, HFTokenizerAdapter
from llm.tokenizers import BPETokenizer

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # as in transformers' own tester of causal models
    "tie_word_embeddings": False,
}
END = "<|endoftext|>"
PROSE = [
    "This is a test. Encode this, and this one too please: the first sentence, the second one.",
    "Some text that is longer than the others, so that there are words of many a length to learn.",
    "Lower newer wider; a dog was found in a field near the street. Testing 123 tokens, 45 merges!",
]

# by this table the suites know a trunk, which has no loss to train by
MODEL_MAPPING_NAMES[HFAdapterConfig.model_type] = HFAdapterModel.__name__


class ModelTester:
    """What transformers' suites ask for a model by.

    Args:
        config_class: of the models.
        base_model_class: the trunk.
        causal_lm_class: the trunk with a head.
        fields: of the configuration, besides `SIZES`.
    """

    batch_size, seq_length, is_training = 13, 7, True

    def __init__(self, config_class, base_model_class, causal_lm_class, **fields):
        self.config_class, self.fields = config_class, {**SIZES, **fields}
        self.base_model_class, self.causal_lm_class = base_model_class, causal_lm_class
        vars(self).update(SIZES)

    def get_config(self):
        """A configuration of that size."""
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        """A configuration and a padded batch."""
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        mask = input_ids.new_ones(input_ids.shape).tril()
        return self.get_config(), {"input_ids": input_ids, "attention_mask": mask}


class ModelCases(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """The suites of a model; a subclass says which."""

    def begin(self, config_class, *model_classes, **fields):
        """Make the testers."""
        self.all_model_classes = model_classes
        self.model_tester = ModelTester(config_class, *model_classes, **fields)
        self.config_tester = ConfigTester(self, config_class=config_class, **fields)

    def test_config(self):
        """The suite of the configuration."""
        self.config_tester.run_common_tests()


class TestReferenceModel(ModelCases, unittest.TestCase):
    """HuggingFace's GPT-2."""

    def setUp(self):
        """Name the classes."""
        self.begin(GPT2Config, GPT2Model, GPT2LMHeadModel)


class TestGPT(ModelCases, unittest.TestCase):
    """Our GPT, wrapped."""

    def setUp(self):
        """Name the classes."""
        self.begin(HFAdapterConfig, HFAdapterModel, HFAdapter, llm_model_type="gpt")


class TestGPT2(ModelCases, unittest.TestCase):
    """Our GPT-2, wrapped."""

    def setUp(self):
        """Name the classes."""
        self.begin(HFAdapterConfig, HFAdapterModel, HFAdapter, llm_model_type="gpt2")


class TokenizerCases(TokenizerTesterMixin, TokenizersBackendTesterMixin):
    """The suites of a tokenizer; a subclass says which."""

    @classmethod
    def setUpClass(cls):
        """Train a small tokenizer; the suites begin at the folder of its wrapper."""
        tokenizer = BPETokenizer()
        roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
        tokenizer.train(PROSE, 400, [END], show_progress=False, **roles)
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.wrap(tokenizer).save_pretrained(folder)
        cls.from_pretrained_id = [folder]
        super().setUpClass()

    @staticmethod
    def wrap(tokenizer):
        """The tokenizer to be tested."""
        raise NotImplementedError


class TestReferenceTokenizer(TokenizerCases, unittest.TestCase):
    """HuggingFace's GPT-2 tokenizer."""

    tokenizer_class = GPT2Tokenizer

    @staticmethod
    def wrap(tokenizer):
        """The same vocabulary and merges."""
        model = json.loads(tokenizer.to_json())["model"]
        return GPT2Tokenizer(vocab=model["vocab"], merges=list(map(tuple, model["merges"])))


class TestTokenizer(TokenizerCases, unittest.TestCase):
    """Our tokenizer, wrapped."""

    tokenizer_class = HFTokenizerAdapter
    wrap = staticmethod(HFTokenizerAdapter)
