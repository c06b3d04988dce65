"""What the tests share: tiny models of ours, and transformers' own with the same weights."""

import pytest

TINY = {
    "vocab_size": 67,
    "embed_dim": 24,
    "num_heads": 3,
    "num_layers": 3,
    "max_position_embeddings": 40,
    "dropout": 0.0,
}


def pytest_generate_tests(metafunc):
    """A test that asks for `model_type` runs once for every registered architecture."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "model_type" in metafunc.fixturenames and not any("model_type" in names for names in given):
        from llm.models import ARCHITECTURES

        metafunc.parametrize("model_type", sorted(ARCHITECTURES))


@pytest.fixture(scope="session")
def make_model():
    """A tiny model of ours in eval mode, the same for the same seed.

    Biases and norms are random too, and all weights large enough to matter; positions
    most of all, so that it does not say one word again and again.
    """
    import torch

    from llm.models import ARCHITECTURES

    def make(model_type, *, seed=0, std=0.15, **overrides):
        model = ARCHITECTURES[model_type].model({**TINY, **overrides}).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * std
                if "position" in name:
                    noise *= 3
                is_norm_scale = parameter.dim() == 1 and name.endswith("weight")
                parameter.copy_(noise + 1 if is_norm_scale else noise)
        return model

    return make


@pytest.fixture
def make_adapter(make_model):
    """A tiny adapter in eval mode, the same for the same seed."""
    from hf_proxy import HFAdapter

    def make(model_type, **options):
        return HFAdapter.from_llm_model(make_model(model_type, **options))

    return make


@pytest.fixture
def make_stock(make_model, tmp_path_factory):
    """Transformers' own class of the architecture, with the same weights: what ours must equal."""
    from transformers import AutoModelForCausalLM

    def make(model_type, *, attn_implementation="eager", **options):
        folder = tmp_path_factory.mktemp("stock")
        make_model(model_type, **options).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=attn_implementation
        )
        assert not type(model).__module__.startswith("hf_proxy")
        return model.eval()

    return make


@pytest.fixture(scope="session")
def random_ids():
    """Random token ids (B, T), the same for the same seed; 0 and 1, which pad and end, are not."""
    import torch

    def make(batch_size, length, *, seed=0, vocab_size=TINY["vocab_size"]):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(2, vocab_size, (batch_size, length), generator=generator)

    return make


@pytest.fixture(scope="session")
def random_rows(random_ids):
    """Random token ids, a list for each length."""

    def make(*lengths, seed=0):
        return [random_ids(1, n, seed=seed + i)[0].tolist() for i, n in enumerate(lengths)]

    return make


@pytest.fixture(scope="session")
def pad():
    """Rows of different lengths -> (input_ids, attention_mask), padded on one side."""
    import torch

    def pad_rows(rows, side="left", pad_token_id=0):
        length = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), length), pad_token_id)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            start = length - len(row) if side == "left" else 0
            input_ids[i, start : start + len(row)] = torch.as_tensor(row)
            attention_mask[i, start : start + len(row)] = 1
        return input_ids, attention_mask

    return pad_rows


@pytest.fixture(scope="session")
def hand_loss():
    """Cross-entropy by the definition, target by target: every next token that is not -100."""
    import torch

    def loss(logits, labels, *, total=None):
        losses = [
            -row_logits[i].double().log_softmax(-1)[row_labels[i + 1]]
            for row_logits, row_labels in zip(logits, labels, strict=True)
            for i in range(len(row_labels) - 1)
            if row_labels[i + 1] != -100
        ]
        return torch.stack(losses).sum() / (total or len(losses))

    return loss


@pytest.fixture(scope="session")
def weights_of():
    """A copy of every weight by name."""

    def copy(module):
        return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    return copy
