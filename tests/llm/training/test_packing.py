"""Packed documents and mixtures: every token once an epoch, documents kept apart."""

import numpy as np
import pytest
import torch

from llm.data import write_shards
from llm.training.loss import next_token_loss
from llm.training.packing import PackedDocuments, document_attention_mask
from llm.training.stream import ExampleStream, Mixture
from llm.training.validation import validate, validate_each


@pytest.fixture
def shards(tokenizer, texts, tmp_path):
    return write_shards(
        [f"{i} {text}" for i in range(6) for text in texts],
        tokenizer,
        tmp_path / "s",
        shard_tokens=300,
        show_progress=False,
    )


def test_every_token_is_read_once_an_epoch_in_whole_documents(shards, monkeypatch):
    monkeypatch.setattr("llm.training.packing.GROUP", 5)
    packed = PackedDocuments(shards, block_size=16, seed=3)
    expected = sorted(shards.document(i).tolist() for i in range(shards.num_documents))
    orders = []
    for epoch in range(3):
        blocks = [packed[epoch * len(packed) + i]["input_ids"] for i in range(len(packed))]
        ids = torch.cat([blocks[0], *(block[1:] for block in blocks[1:])]).tolist()
        documents, document = [], []
        for token in ids:
            if token == packed.eos_token_id:
                documents.append(document)
                document = []
            else:
                document.append(token)
        assert document == []
        assert sorted(documents) == expected
        orders.append(documents)
    assert orders[0] != orders[1] != orders[2]
    again = PackedDocuments(shards, block_size=16, seed=3)
    assert again[5]["input_ids"].equal(packed[5]["input_ids"])


def test_masked_documents_give_what_each_gives_alone(shards, make_model, model_class):
    model = make_model(model_class, dropout=0.0, max_position_embeddings=200).eval()
    packed = PackedDocuments(shards, block_size=200, seed=0, document_mask=True)
    batch = {name: value[None] for name, value in packed[1].items()}
    mask = document_attention_mask(batch["document_ids"])
    with torch.no_grad():
        together = model.hidden_states(
            batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"]
        )
        loss = next_token_loss(together, model.lm_head.weight, batch["labels"])
        alone, alone_loss = [], torch.zeros(())
        for number in batch["document_ids"].unique():
            ids = batch["input_ids"][batch["document_ids"] == number][None]
            alone.append(model.hidden_states(ids))
            alone_loss += next_token_loss(alone[-1], model.lm_head.weight, ids)
        assert len(alone) > 2
        logits = model.lm_head(together)
        torch.testing.assert_close(logits, model.lm_head(torch.cat(alone, 1)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, alone_loss, atol=1e-5, rtol=1e-5)


class Numbers(ExampleStream):
    def __getitem__(self, position):
        return {"input_ids": torch.tensor([position])}

    def fingerprint(self):
        return "numbers"


@pytest.mark.parametrize("weights", [[1], [1, 1], [0.7, 0.2, 0.1], [5, 3, 1, 1, 0.01]])
def test_a_mixture_has_its_shares_and_skips_nothing(weights):
    corpora = {f"{i}": (Numbers(), weight) for i, weight in enumerate(weights)}
    mixture = Mixture(corpora, seed=1)
    places = [mixture.place(p) for p in range(256 * 20)]
    for i, weight in enumerate(weights):
        mine = sorted(place for name, place in places if name == f"{i}")
        assert mine == list(range(len(mine)))
        assert abs(len(mine) - len(places) * weight / np.sum(weights)) <= len(weights)
    assert Mixture(corpora, seed=1).place(777) == places[777]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "x"])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight of a"):
        Mixture({"a": (Numbers(), weight)}, seed=0)


def test_validation_keeps_documents_apart_and_padding_changes_nothing(shards, make_model):
    model = make_model(dropout=0.0, max_position_embeddings=64)
    packed = PackedDocuments(shards, block_size=64, seed=0, document_mask=True)
    results = validate_each(model, {"all": packed, "again": packed}, batch_size=len(packed))
    one_by_one = validate(model, packed, batch_size=1)  # nothing is padded
    assert results["all"] == results["again"]
    assert results["all"].num_targets == one_by_one.num_targets
    assert abs(results["all"].loss - one_by_one.loss) < 1e-5
    plain = PackedDocuments(shards, block_size=64, seed=0)
    assert abs(validate(model, plain, batch_size=1).loss - one_by_one.loss) > 1e-5
