"""A checkpoint is complete or not there, and damage is noticed."""

import json

import pytest
import torch

from llm.training import (
    TrainerState,
    get_optimizer,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)


@pytest.fixture
def trained(make_model, tokenizer, tmp_path):
    model = make_model()
    optimizer = get_optimizer(model)
    model.hidden_states(torch.tensor([[5, 6, 7]])).sum().backward()
    optimizer.step()

    def save(step):
        return save_checkpoint(
            tmp_path,
            model=model,
            tokenizer=tokenizer,
            optimizer=optimizer,
            state=TrainerState(step=step, tokens=12),
        )

    return model, optimizer, save


def test_weights_and_optimizer_come_back_bit_for_bit(trained, make_model):
    model, optimizer, save = trained
    folder = save(7)
    other = make_model(seed=5)
    other_optimizer = get_optimizer(other)
    state = load_checkpoint(folder, other, other_optimizer)
    assert state == TrainerState(step=7, tokens=12)
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter)
        kept = optimizer.state[parameter]
        loaded = other_optimizer.state[other.get_parameter(name)]
        assert loaded.keys() == kept.keys() >= {"exp_avg", "exp_avg_sq", "step"}
        for field in kept:
            assert torch.equal(loaded[field], torch.as_tensor(kept[field]))
    assert other.lm_head.weight is other.decoder.token_embeddings.weight


def test_checkpoints_are_listed_by_step_and_unfinished_ones_are_none(trained, tmp_path):
    _, _, save = trained
    for step in (30, 4, 1_000_000):
        save(step)
    (tmp_path / ".step-000050.tmp").mkdir()
    (tmp_path / "step-000060").touch()
    (tmp_path / "final").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-000004",
        "step-000030",
        "step-1000000",
    ]


def test_a_published_checkpoint_is_never_written_again(trained):
    _, _, save = trained
    folder = save(1)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="step-000001"):
        save(1)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_failure_while_writing_leaves_nothing(trained, tmp_path, monkeypatch):
    _, _, save = trained

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm.training.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_every_damage_is_noticed_by_file(trained, make_model, name, damage):
    _, _, save = trained
    folder = save(1)
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(ValueError, match=name):
        verify_checkpoint(folder)
    model = make_model(seed=3)
    before = model.decoder.token_embeddings.weight.detach().clone()
    with pytest.raises(ValueError, match=name):
        load_checkpoint(folder, model, get_optimizer(model))
    assert torch.equal(model.decoder.token_embeddings.weight, before)


def test_a_foreign_file_and_a_missing_manifest_are_noticed(trained):
    _, _, save = trained
    folder = save(1)
    (folder / "extra.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"extra\.bin is not of this checkpoint"):
        verify_checkpoint(folder)
    (folder / "extra.bin").unlink()
    verify_checkpoint(folder)
    (folder / "MANIFEST.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"MANIFEST\.json"):
        verify_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "{", '{"format": 1, "step": 1, "files": {"config.json": 3}}', "[" * 100_000],
)
def test_a_senseless_manifest_is_a_value_error(trained, content):
    _, _, save = trained
    folder = save(1)
    (folder / "MANIFEST.json").write_text(content)
    with pytest.raises(ValueError, match=str(folder)):
        verify_checkpoint(folder)


def test_a_checkpoint_of_another_size_is_refused(trained, make_model):
    _, _, save = trained
    folder = save(1)
    other = make_model(num_layers=1)
    with pytest.raises(ValueError, match="another configuration"):
        load_checkpoint(folder, other, get_optimizer(other))


def test_the_manifest_lists_every_file_with_its_size(trained):
    _, _, save = trained
    folder = save(1)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["step"] == 1
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    del sizes["MANIFEST.json"]
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == sizes


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.1, "residual_dropout": 0.2},
        {"dropout": 0.1, "embedding_dropout": 0.1},
        {"intermediate_dim": 64},
        {"tie_embeddings": False},
        {"norm_eps": 1e-6, "initializer_range": 0.01},
    ],
)
def test_any_way_to_spell_a_configuration_comes_back(make_model, model_class, tmp_path, changes):
    model = make_model(model_class, **changes)
    arguments = {"tokenizer": None, "state": TrainerState(step=1)}
    folder = save_checkpoint(tmp_path, model=model, optimizer=get_optimizer(model), **arguments)
    other = make_model(model_class, seed=1, **changes)
    load_checkpoint(folder, other, get_optimizer(other))
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter)


def test_another_optimizer_is_refused_before_anything_changes(trained, make_model):
    _, _, save = trained
    folder = save(1)
    other = make_model(seed=2)
    before = other.decoder.token_embeddings.weight.detach().clone()
    with pytest.raises(ValueError, match="optimizer AdamW, not of SGD"):
        load_checkpoint(folder, other, get_optimizer(other, "sgd"))
    other.decoder.position_embeddings.requires_grad_(False)
    with pytest.raises(ValueError, match="other parameters"):
        load_checkpoint(folder, other, get_optimizer(other))
    assert torch.equal(other.decoder.token_embeddings.weight, before)


def test_frozen_parameters_survive_a_checkpoint(make_model, tmp_path):
    def make(seed):
        model = make_model(seed=seed)
        model.decoder.position_embeddings.requires_grad_(False)
        return model, get_optimizer(model)

    model, optimizer = make(0)
    model.hidden_states(torch.tensor([[5, 6, 7]])).sum().backward()
    optimizer.step()
    arguments = {"tokenizer": None, "state": TrainerState(step=1)}
    folder = save_checkpoint(tmp_path, model=model, optimizer=optimizer, **arguments)
    other, other_optimizer = make(1)
    load_checkpoint(folder, other, other_optimizer)
    left, right = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert left.keys() == right.keys()
    for index in left:
        for field, value in left[index].items():
            assert torch.equal(right[index][field], value)
