"""The trainer takes corpora on disk, mixed, packed and kept apart, and resumes them."""

import pytest
import torch

from llm.data import write_shards
from llm.training import (
    Mixture,
    PackedDocuments,
    ShuffledStream,
    Trainer,
    TrainingConfig,
    list_checkpoints,
    verify_resume,
)


@pytest.fixture
def make_shards(tokenizer, texts, tmp_path):
    def make(name="shards", documents=None):
        documents = [text * 3 for text in texts] if documents is None else documents
        folder = tmp_path / name
        return write_shards(documents, tokenizer, folder, shard_tokens=100, show_progress=False)

    return make


def packed(shards, **options):
    return PackedDocuments(shards, block_size=16, seed=0, **options)


@pytest.mark.parametrize("document_mask", [False, True])
def test_shards_train_and_resume_to_the_same_bits(
    make_model, tokenizer, make_shards, document_mask
):
    shards = make_shards()

    def make(folder):
        stream = packed(shards, document_mask=document_mask)
        return Trainer(
            make_model(),
            stream,
            TrainingConfig(steps=5, batch_size=3, accumulation_steps=2, device="cpu"),
            validation_dataset=packed(shards, document_mask=document_mask),
            tokenizer=tokenizer,
            run_folder=folder,
            show_progress=False,
        )

    verify_resume(make, steps=4)


def test_the_document_mask_reaches_the_model(make_model, make_shards):
    """Trained on two documents in a block, it has the gradient of each alone."""
    shards = make_shards(documents=["The cat.", "Кошка."])
    config = TrainingConfig(steps=1, batch_size=1, device="cpu", max_grad_norm=0)
    steps = []
    for mask in (True, False):
        stream = PackedDocuments(shards, block_size=16, seed=0, document_mask=mask)
        model = make_model(dropout=0.0)
        trainer = Trainer(model, stream, config, show_progress=False)
        steps.append(trainer.train_step())
    (masked_loss, _, masked_targets), (loss, _, targets) = steps
    # the first token of the second document is no target
    assert masked_targets == targets - 1
    model = make_model(dropout=0.0)
    total = 0.0
    for index in range(2):
        ids = [*shards.document(index).tolist(), stream.eos_token_id]
        logits = model(torch.tensor([ids[:-1]]))
        total += torch.nn.functional.cross_entropy(
            logits[0], torch.tensor(ids[1:]), reduction="sum"
        ).item()
    assert masked_loss * masked_targets == pytest.approx(total, rel=1e-5)
    assert loss != pytest.approx(masked_loss, rel=1e-3)


def test_a_mixture_trains_and_another_one_is_refused(
    make_model, make_config, make_shards, dataset, tmp_path
):
    shards = make_shards()

    def make(weight):
        mixture = Mixture(
            {"disk": (packed(shards), weight), "memory": (ShuffledStream(dataset, 0), 1.0)}, seed=3
        )
        return Trainer(
            make_model(), mixture, make_config(steps=4), run_folder=tmp_path / "run",
            show_progress=False,
        )  # fmt: skip

    make(2.0).train(until=2)
    with pytest.raises(ValueError, match=r"fingerprints\.train_dataset was"):
        make(3.0).resume()
    again = make(2.0)
    again.resume()
    again.train()
    assert again.step == 4


def test_several_validation_sets_and_the_first_decides(
    make_model, make_config, dataset, make_shards, tmp_path
):
    trainer = Trainer(
        make_model(),
        dataset,
        make_config(steps=4, save_every=2, validate_every=2),
        validation_dataset={"text": dataset, "shards": packed(make_shards())},
        run_folder=tmp_path / "run",
        show_progress=False,
    )
    result = trainer.train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert f'"validation_losses": {{"text": {result.loss}, "shards": ' in lines
    assert trainer.state.best_step in (2, 4)
    assert len(list_checkpoints(tmp_path / "run")) == 2


def test_shards_that_do_not_fit_the_model_are_refused(make_model, make_config, make_shards):
    shards = make_shards()
    long = PackedDocuments(shards, block_size=17, seed=0)
    with pytest.raises(ValueError, match="blocks of 17 tokens, more than the model's"):
        Trainer(make_model(), long, make_config())
    small = make_model(vocab_size=100, eos_token_id=0)
    with pytest.raises(ValueError, match="a vocabulary of 300, the model of 100"):
        Trainer(small, packed(shards), make_config())
