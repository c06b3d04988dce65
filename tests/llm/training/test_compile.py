"""Training through `torch.compile`: the same numbers, or a clear refusal."""

import logging
import re

import pytest
import torch

from llm.training import Trainer, verify_resume

pytestmark = pytest.mark.slow


@pytest.fixture
def make_trainer(make_model, make_config, dataset):
    def make(folder=None, *, dropout=0.0, **settings):
        # a name of its own for each test would compile anew; the code is cached on disk
        torch.compiler.reset()
        return Trainer(
            make_model(dropout=dropout),
            dataset,
            make_config(**settings),
            validation_dataset=dataset,
            run_folder=folder,
            show_progress=False,
        )

    return make


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True, "max_tokens": 32}])
def test_a_compiled_model_learns_what_the_plain_one_does(make_trainer, settings, caplog):
    plain, compiled = make_trainer(**settings), make_trainer(compile=True, **settings)
    expected = plain.train()
    with caplog.at_level(logging.INFO):
        got = compiled.train()
    assert any(
        re.fullmatch(r"compiled the model in \d+ s", each.message) for each in caplog.records
    )
    assert got.loss == pytest.approx(expected.loss, rel=1e-5)
    assert compiled.tokens == plain.tokens
    for (name, one), other in zip(
        plain.model.named_parameters(), compiled.model.parameters(), strict=True
    ):
        if not name.endswith("qkv_proj.bias"):  # of keys it is rounding alone
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_it_resumes_to_the_same_bits(make_trainer):
    verify_resume(lambda folder: make_trainer(folder, dropout=0.3, compile=True), steps=2)


def test_without_a_compiler_it_says_so(make_trainer, monkeypatch, tmp_path):
    # a size that no other test has put into the cache
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    trainer = make_trainer(compile=True, batch_size=3)
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")}),
        pytest.raises(ValueError, match=r"cannot be compiled here.*without compile"),
    ):
        trainer.train()
