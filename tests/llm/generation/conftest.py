"""Models that say what they are told to, and the plain loop that generation must equal."""

import pytest
import torch


@pytest.fixture(scope="session")
def make_scripted():
    """A real model whose next token depends on the position alone: it recites `script`.

    The blocks add nothing, position p is the one-hot vector e_p, and the head maps
    e_p to the token that follows it.
    """

    def make(script, *, prompt_length=1, model_type="gpt2", vocab_size=257, context=None, **fields):
        from llm.models import ARCHITECTURES

        context = context or max(len(script) + prompt_length, 8)
        model = ARCHITECTURES[model_type].model(
            {
                "vocab_size": vocab_size,
                "embed_dim": context,
                "num_heads": 1,
                "num_layers": 1,
                "max_position_embeddings": context,
                "tie_embeddings": False,
                **fields,
            }
        )
        with torch.no_grad():
            model.decoder.token_embeddings.weight.zero_()
            model.decoder.position_embeddings.weight.copy_(torch.eye(context))
            model.decoder.blocks[0].attention.out_proj.weight.zero_()
            model.decoder.blocks[0].feed_forward.down_proj.weight.zero_()
            model.lm_head.weight.zero_()
            for i, token in enumerate(script):
                model.lm_head.weight[token, prompt_length - 1 + i] = 1.0
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_talkative(make_model):
    """A tiny model whose greedy continuations are varied: it minds tokens and positions."""

    def make(model_type, **fields):
        model = make_model(model_type, tie_embeddings=False, **fields)
        with torch.no_grad():
            model.decoder.token_embeddings.weight.mul_(4)
            model.decoder.position_embeddings.weight.mul_(4)
        return model

    return make


@pytest.fixture(scope="session")
def plain_loop():
    """Greedy decoding, written out: no cache, a sliding window."""

    @torch.no_grad()
    def decode(model, ids, steps, mask=None):
        context = model.config.max_position_embeddings
        mask = torch.ones_like(ids) if mask is None else mask
        for _ in range(steps):
            logits = model(ids[:, -context:], attention_mask=mask[:, -context:])
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return ids

    return decode


@pytest.fixture
def count_tokens():
    """Registers a model; the list then holds the tokens encoded by each forward."""
    handles = []

    def register(model):
        lengths = []
        handles.append(
            model.decoder.blocks[0].register_forward_pre_hook(
                lambda _, args: lengths.append(args[0].shape[1])
            )
        )
        return lengths

    yield register
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def chi_square_p():
    """The p-value of counts under probabilities (Pearson); cells of probability 0 must be empty."""

    def p_value(counts, probabilities):
        counts, probabilities = counts.double(), probabilities.double()
        possible = probabilities > 0
        assert counts[~possible].sum() == 0, "a removed token was sampled"
        expected = probabilities[possible] * counts.sum()
        assert expected.min() > 5, "too few samples for the test"
        statistic = ((counts[possible] - expected) ** 2 / expected).sum()
        freedom = torch.tensor(possible.sum().item() - 1, dtype=torch.float64)
        return torch.special.gammaincc(freedom / 2, statistic / 2).item()

    return p_value
