"""What the tests share: a tiny configuration of each architecture, and models made of it."""

import pytest

# small, but with no two sizes equal, so that a confused dimension is an error
TINY = {
    "gpt": {
        "vocab_size": 41,
        "embed_dim": 24,
        "num_heads": 3,
        "num_layers": 2,
        "max_position_embeddings": 20,
        "dropout": 0.0,
    },
    "gpt2": {
        "vocab_size": 43,
        "embed_dim": 20,
        "num_heads": 2,
        "num_layers": 3,
        "max_position_embeddings": 18,
        "intermediate_dim": 52,
        "dropout": 0.0,
    },
}


def pytest_generate_tests(metafunc):
    """A test that asks for `model_type` runs once for every registered architecture."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "model_type" in metafunc.fixturenames and not any("model_type" in names for names in given):
        from llm.models import ARCHITECTURES

        metafunc.parametrize("model_type", sorted(ARCHITECTURES))


def shake(module, seed=0, std=0.15):
    """Random values in every parameter: biases and norms too, and large enough to matter."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std
            is_norm_scale = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(noise + 1 if is_norm_scale else noise)
    return module


@pytest.fixture(scope="session")
def tiny():
    """The tiny configuration of an architecture, as a mapping."""

    def of(model_type, **overrides):
        return {**TINY[model_type], **overrides}

    return of


@pytest.fixture(scope="session")
def make_model(tiny):
    """A tiny model in eval mode with lively weights, the same for the same seed."""

    def make(model_type, *, seed=0, **overrides):
        from llm.models import ARCHITECTURES

        model = ARCHITECTURES[model_type].model(tiny(model_type, **overrides))
        return shake(model, seed).eval()

    return make


@pytest.fixture(scope="session")
def shaken():
    """`shake`, for modules and for transformers' models."""
    return shake


@pytest.fixture(scope="session")
def random_ids():
    """Random token ids (B, T), the same for the same seed."""

    def make(vocab_size, batch_size, length, seed=0):
        import torch

        generator = torch.Generator().manual_seed(seed)
        return torch.randint(vocab_size, (batch_size, length), generator=generator)

    return make


@pytest.fixture(scope="session")
def left_pad():
    """Rows of different lengths -> (input_ids, attention_mask), real tokens on the right."""

    def pad(rows, pad_token_id=0):
        import torch

        length = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), length), pad_token_id)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            input_ids[i, length - len(row) :] = torch.as_tensor(row)
            attention_mask[i, length - len(row) :] = 1
        return input_ids, attention_mask

    return pad
