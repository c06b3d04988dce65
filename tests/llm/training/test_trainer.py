"""The training loop keeps its promises."""

import json
import logging
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from llm.generation import generate_text
from llm.models import load_pretrained
from llm.models.gpt import GPT
from llm.tokenizers import BPETokenizer
from llm.training import (
    LossSpikeError,
    NonFiniteLossError,
    TextDataset,
    Trainer,
    count_targets,
    list_checkpoints,
    validate,
    verify_checkpoint,
)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def ragged_examples(lengths):
    generator = torch.Generator().manual_seed(1)
    examples = []
    for length in lengths:
        ids = torch.randint(4, 300, (length,), generator=generator)
        labels = ids.clone()
        labels[: length // 3] = -100
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def trainer_for(model, dataset, config, **options):
    return Trainer(model, dataset, config, show_progress=False, **options)


def test_accumulation_has_the_gradient_of_the_full_batch_with_uneven_lengths(
    make_model, make_config, model_class
):
    examples = ragged_examples([16, 3, 9, 5, 12, 2, 7, 16])
    gradients = []
    for batch_size, accumulation_steps in [(8, 1), (4, 2), (2, 4), (1, 8)]:
        model = make_model(model_class, dropout=0.0)
        config = make_config(
            batch_size=batch_size, accumulation_steps=accumulation_steps, max_grad_norm=0
        )
        trainer = trainer_for(model, examples, config)
        kept = {}

        def keep(optimizer, *_, kept=kept, model=model):
            kept.update({name: p.grad.clone() for name, p in model.named_parameters()})

        trainer.optimizer.register_step_pre_hook(keep)
        loss, _, num_targets = trainer.train_step()
        assert num_targets == sum(count_targets(e["labels"][None]) for e in examples)
        gradients.append((loss, kept))
    full_loss, full = gradients[0]
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(full_loss, rel=1e-6)
        for name in full:
            torch.testing.assert_close(gradient[name], full[name], rtol=1e-4, atol=1e-7)


def test_a_step_is_loss_backward_clip_and_update_by_hand(make_model, make_config, dataset):
    model, reference = make_model(dropout=0.0), make_model(dropout=0.0)
    # not Adam: its first step is the gradient's sign, whatever rounding left of it
    config = make_config(
        optimizer="sgd", max_grad_norm=0.1, learning_rate=1.0, warmup_ratio=0.5, batch_size=2
    )
    trainer = trainer_for(model, dataset, config)
    decays = [p for p in reference.parameters() if p.dim() == 2]
    rest = [p for p in reference.parameters() if p.dim() != 2]
    optimizer = torch.optim.SGD(
        [{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=0.5,
        momentum=0.9,
    )
    batch = [dataset[trainer.stream.order[i]]["input_ids"] for i in range(2)]
    logits = [reference(ids[None])[0, :-1] for ids in batch]
    loss = torch.nn.functional.cross_entropy(
        torch.cat(logits), torch.cat([ids[1:] for ids in batch])
    )
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
    optimizer.step()
    got_loss, got_norm, _ = trainer.train_step()
    assert got_loss == pytest.approx(loss.item(), rel=1e-5)
    assert got_norm == pytest.approx(norm.item(), rel=1e-4)
    assert got_norm > 0.1  # it was clipped
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name), parameter, rtol=1e-5, atol=1e-6, msg=name
        )


def test_every_example_is_trained_on_once_an_epoch(make_model, make_config):
    examples = ragged_examples([4] * 12)
    seen = []

    class Watched:
        def __len__(self):
            return len(examples)

        def __getitem__(self, index):
            seen.append(index)
            return examples[index]

    config = make_config(steps=4, batch_size=3, accumulation_steps=2)
    trainer_for(make_model(), Watched(), config).train()
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


def test_training_learns_the_text(make_model, make_config, dataset, tokenizer, model_class):
    model = make_model(model_class, dropout=0.0, embed_dim=32)
    before = validate(model, dataset, batch_size=4).loss
    config = make_config(steps=160, learning_rate=5e-3, batch_size=8, warmup_ratio=0.1)
    trainer_for(model, dataset, config).train()
    after = validate(model, dataset, batch_size=4).loss
    assert before == pytest.approx(math.log(len(tokenizer)), abs=0.3)
    assert after < 0.3


def test_the_same_seed_trains_the_same_bits_and_another_does_not(make_model, make_config, dataset):
    def trained(seed):
        model = make_model(dropout=0.2)
        trainer_for(model, dataset, make_config(seed=seed)).train()
        return weights(model)

    first, again, other = trained(0), trained(0), trained(1)
    assert_same_weights(first, again)
    assert not torch.equal(
        first["decoder.token_embeddings.weight"], other["decoder.token_embeddings.weight"]
    )


def test_validation_and_samples_do_not_disturb_training(
    make_model, make_config, dataset, tokenizer, tmp_path
):
    def trained(**options):
        model = make_model(dropout=0.2)
        config = make_config(steps=6, **options)
        trainer_for(
            model,
            dataset,
            config,
            validation_dataset=dataset,
            tokenizer=tokenizer,
            sample_prompts=["The cat", "Кошка"],
            sample_options={"max_new_tokens": 3},
        ).train()
        return weights(model)

    assert_same_weights(trained(), trained(validate_every=2, sample_every=1))


def test_run_folder_has_what_the_design_says(
    make_model, make_config, dataset, tokenizer, texts, tmp_path, model_class
):
    run = tmp_path / "run"
    model = make_model(model_class)
    config = make_config(steps=5, save_every=2, log_every=2, validate_every=2, sample_every=2)
    result = trainer_for(
        model,
        dataset,
        config,
        validation_dataset=dataset,
        tokenizer=tokenizer,
        sample_prompts=["Кошка"],
        run_folder=run,
        run_info={"note": "да"},
    ).train()
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "run.lock",
        "metrics.jsonl",
        "step-000004",
        "step-000005",
        "final",
    }
    described = json.loads((run / "run.json").read_text("utf-8"))
    assert described["model"]["model_type"] == model_class.config_class.model_type
    assert described["model"]["embed_dim"] == 16
    assert described["training"]["steps"] == 5
    assert described["seed"] == 0
    assert described["note"] == "да"
    assert torch.__version__.startswith(described["versions"]["torch"])
    assert described["fingerprints"]["tokenizer"] == tokenizer.fingerprint()
    assert described["fingerprints"]["train_dataset"] == dataset.fingerprint()

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [2, 4, 5]
    for line in logged:
        assert line.keys() >= {"tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
    validations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in validations] == [2, 4, 5]
    assert validations[-1]["validation_loss"] == result.loss
    assert [line["step"] for line in lines if "sample" in line] == [2, 4]

    assert load_pretrained(run / "final").config == model.config
    assert_same_weights(weights(load_pretrained(run / "final")), weights(model))
    assert BPETokenizer.load(run / "final") == tokenizer
    for checkpoint in list_checkpoints(run):
        verify_checkpoint(checkpoint)
    optimizer = load_file(run / "step-000004" / "optimizer.safetensors")
    names = {name for name, _ in model.named_parameters()}
    assert {key.split(".", 1)[1] for key in optimizer} == names
    state = json.loads((run / "step-000004" / "trainer_state.json").read_text("utf-8"))
    assert state["step"] == 4


def test_the_final_model_generates_as_the_trained_one(
    make_model, make_config, dataset, tokenizer, tmp_path
):
    model = make_model()
    trainer_for(
        model, dataset, make_config(), tokenizer=tokenizer, run_folder=tmp_path / "run"
    ).train()
    loaded = load_pretrained(tmp_path / "run" / "final")
    for prompt in ("The cat", "Кошка сидела"):
        assert generate_text(loaded, tokenizer, prompt, max_new_tokens=8) == generate_text(
            model, tokenizer, prompt, max_new_tokens=8
        )


def test_old_checkpoints_are_pruned_but_for_the_best(
    make_model, make_config, dataset, tokenizer, tmp_path, monkeypatch
):
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7])
    trainer = trainer_for(
        make_model(),
        dataset,
        make_config(steps=6, save_every=1, validate_every=1, keep_checkpoints=2),
        validation_dataset=dataset,
        run_folder=tmp_path / "run",
    )
    monkeypatch.setattr(
        "llm.training.validation.validate",
        lambda *_, **__: type("Result", (), {"loss": next(losses)})(),
    )
    trainer.train()
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == ["step-000002", "step-000005", "step-000006"]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_number_stops_before_the_weights_are_touched(
    make_model, make_config, dataset, tmp_path, where, monkeypatch
):
    model = make_model(dropout=0.0)
    trainer = trainer_for(
        model, dataset, make_config(steps=9, save_every=2), run_folder=tmp_path / "run"
    )
    for _ in range(2):
        trainer.train_step()
    trainer.save_checkpoint()
    before = weights(model)
    saved = (tmp_path / "run" / "step-000002" / "model.safetensors").read_bytes()
    if where == "loss":
        import llm.training.step_gradient as module

        plain = module.next_token_loss
        monkeypatch.setattr(module, "next_token_loss", lambda *a, **k: plain(*a, **k) * math.nan)
    else:
        model.decoder.final_norm.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"step 3.*step-000002"):
        trainer.train()
    assert_same_weights(weights(model), before)
    assert (tmp_path / "run" / "step-000002" / "model.safetensors").read_bytes() == saved
    verify_checkpoint(tmp_path / "run" / "step-000002")


def test_without_a_checkpoint_the_error_says_so(make_model, make_config, dataset):
    model = make_model()
    torch.nn.init.constant_(model.decoder.token_embeddings.weight, math.nan)
    with pytest.raises(NonFiniteLossError, match=r"step 1.*no checkpoint yet"):
        trainer_for(model, dataset, make_config()).train()


def test_a_run_is_never_written_over(make_model, make_config, dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        trainer_for(make_model(), dataset, make_config(), run_folder=tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(
    make_model, make_config, dataset, tokenizer
):
    model = make_model(vocab_size=len(tokenizer) - 1)
    with pytest.raises(ValueError, match=rf"{len(tokenizer)} tokens.*{len(tokenizer) - 1}"):
        trainer_for(model, dataset, make_config(), tokenizer=tokenizer)


def test_blocks_longer_than_the_context_are_refused(make_model, make_config):
    dataset = TextDataset(list(range(4, 100)), block_size=32)
    with pytest.raises(ValueError, match=r"32 tokens.*max_position_embeddings=16"):
        trainer_for(make_model(), dataset, make_config()).train()


def test_ids_beyond_the_vocabulary_are_refused(make_model, make_config):
    dataset = TextDataset([1, 2, 3, 99999], block_size=4)
    with pytest.raises(ValueError, match="99999"):
        trainer_for(make_model(), dataset, make_config()).train()


def test_labels_all_ignored_are_refused(make_model, make_config):
    example = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, -100])}
    with pytest.raises(ValueError, match=r"step 1.*ignored"):
        trainer_for(make_model(), [example], make_config()).train()


def test_an_empty_dataset_is_refused(make_model, make_config):
    with pytest.raises(ValueError, match="empty"):
        trainer_for(make_model(), [], make_config())


def test_samples_need_a_tokenizer_and_prompts(make_model, make_config, dataset):
    trainer_for(make_model(), dataset, make_config(sample_every=1)).train()  # writes none
    with pytest.raises(ValueError, match="tokenizer"):
        trainer_for(make_model(), dataset, make_config(sample_every=1), sample_prompts=["a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": True}, "steps=True"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"accumulation_steps": 0}, "accumulation_steps=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"beta1": 1}, "beta1=1"),
        ({"beta2": -0.1}, "beta2=-0.1"),
        ({"schedule": "cosin"}, "cosin.*linear, cosine"),
        ({"optimizer": "lion"}, "lion.*adamw"),
        ({"warmup_ratio": -0.1}, "warmup_ratio=-0.1"),
        ({"min_learning_rate_ratio": 1.1}, "min_learning_rate_ratio=1.1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_settings_are_refused_by_name(make_config, change, message):
    with pytest.raises(ValueError, match=message):
        make_config(**change)


def test_an_unknown_device_is_refused(make_model, make_config, dataset):
    with pytest.raises(ValueError, match="'abacus' cannot be used"):
        trainer_for(make_model(), dataset, make_config(device="abacus"))


def test_progress_is_shown_on_stderr_and_log_lines_by_the_logger(
    make_model, make_config, dataset, capsys, caplog
):
    with caplog.at_level(logging.INFO, logger="llm"):
        Trainer(make_model(), dataset, make_config(), validation_dataset=dataset).train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err
    assert "tokens/s" in captured.err
    assert "step 4: validation loss" in caplog.text


def test_what_cannot_end_well_is_refused_before_it_begins(
    make_model, make_config, dataset, tmp_path
):
    run = tmp_path / "run"
    long = TextDataset(list(range(4, 100)), block_size=32)
    foreign = TextDataset([1, 2, 99999], block_size=3)
    for name, data in (("validation", long), ("validation", []), ("validation", foreign)):
        with pytest.raises(ValueError, match=name):
            trainer_for(
                make_model(), dataset, make_config(), validation_dataset=data, run_folder=run
            )
    unsavable = make_model(GPT, activation="gelu")
    with pytest.raises(ValueError, match="activation='gelu' cannot be expressed"):
        trainer_for(unsavable, dataset, make_config(), run_folder=run)
    assert not run.exists()
    trainer_for(unsavable, dataset, make_config()).train()
    with pytest.raises(TypeError, match="one string"):
        trainer_for(make_model(), dataset, make_config(), sample_prompts="abc")


def test_the_model_is_saved_before_the_last_validation_can_fail(
    make_model, make_config, dataset, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("llm.training.validation.validate", fail)
    model = make_model()
    trainer = trainer_for(
        model, dataset, make_config(), validation_dataset=dataset, run_folder=tmp_path / "run"
    )
    with pytest.raises(MemoryError):
        trainer.train()
    assert_same_weights(weights(load_pretrained(tmp_path / "run" / "final")), weights(model))


def test_the_best_checkpoint_is_one_that_was_saved(
    make_model, make_config, dataset, tmp_path, monkeypatch
):
    losses = iter([5.0, 2.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(
        "llm.training.validation.validate",
        lambda *_, **__: type("Result", (), {"loss": next(losses)})(),
    )
    trainer = trainer_for(
        make_model(),
        dataset,
        make_config(steps=8, save_every=2, validate_every=1, keep_checkpoints=2),
        validation_dataset=dataset,
        run_folder=tmp_path / "run",
    )
    trainer.train()
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == ["step-000002", "step-000006", "step-000008"]


def test_resuming_validates_what_its_step_was_still_due(make_model, make_config, dataset, tmp_path):
    def make(folder):
        return trainer_for(
            make_model(dropout=0.2),
            dataset,
            make_config(steps=6, save_every=2, validate_every=2, learning_rate=1e-2),
            validation_dataset=dataset,
            run_folder=folder,
        )

    whole = make(tmp_path / "whole")
    checkpoints = {}
    save = whole.save_checkpoint

    def keep():
        folder = save()
        checkpoints[whole.step] = shutil.copytree(folder, tmp_path / "kept" / folder.name)
        return folder

    whole.save_checkpoint = keep
    whole.train()
    for step, folder in checkpoints.items():
        resumed = make(tmp_path / f"resumed-{step}")
        resumed.load_checkpoint(folder)
        resumed.train()
        assert (resumed.state.best_loss, resumed.state.best_step) == (
            whole.state.best_loss,
            whole.state.best_step,
        )
        assert_same_weights(weights(resumed.model), weights(whole.model))


def test_a_vocabulary_rounded_up_beyond_the_tokenizers_trains_and_writes(
    make_model, make_config, dataset, tokenizer
):
    model = make_model(vocab_size=512)
    with torch.no_grad():
        model.decoder.token_embeddings.weight[400:] += 3
    trainer = trainer_for(
        model, dataset, make_config(), tokenizer=tokenizer, sample_prompts=["The", "Кошка"]
    )
    trainer.train()
    assert len(trainer.sample()) == 2


def test_validation_leaves_each_part_in_its_mode(make_model, dataset):
    model = make_model(dropout=0.5)
    model.train()
    model.decoder.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    first = validate(model, dataset, batch_size=4)
    assert [module.training for module in model.modules()] == modes
    assert validate(model, dataset, batch_size=4) == first  # no dropout


class Spiking:
    """Examples, those of one step being another language."""

    def __init__(self, dataset, step, batch_size=4):
        self.dataset, self.reads, self.spike = dataset, 0, range(step * batch_size)[-batch_size:]

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        example = self.dataset[index]
        if self.reads in self.spike:
            ids = torch.full_like(example["input_ids"], 299)
            example = {"input_ids": ids, "labels": ids}
        self.reads += 1
        return example


def test_a_leap_of_the_loss_stops_or_is_skipped(make_model, make_config, dataset, tmp_path):
    def train(**changes):
        trainer = trainer_for(
            make_model(dropout=0.0),
            Spiking(dataset, 60),
            make_config(steps=70, learning_rate=1e-2, **changes),
            run_folder=tmp_path / str(len(list(tmp_path.iterdir()))),
        )
        trainer.train()
        return trainer

    plain = train()
    assert plain.state.skipped_steps == 0
    with pytest.raises(LossSpikeError, match=r"step 60: loss .*before was about .*not touched"):
        train(max_loss_ratio=1.05)
    skipping = train(max_loss_ratio=1.05, on_bad_step="skip")
    assert skipping.step == 70
    assert skipping.state.skipped_steps == 1
    assert skipping.tokens < plain.tokens
    lines = (skipping.run.path / "metrics.jsonl").read_text("utf-8").splitlines()
    last = json.loads(lines[-1])
    assert last["skipped_steps"] == 1
    assert json.loads(lines[59])["loss"] is None


def test_a_step_that_is_not_finite_is_left_out_and_counted(
    make_model, make_config, dataset, monkeypatch
):
    trainer = trainer_for(
        make_model(dropout=0.0), dataset, make_config(steps=4, on_bad_step="skip")
    )
    clip = torch.nn.utils.clip_grad_norm_
    before = weights(trainer.model)

    def infinite(*arguments, **keywords):
        norm = clip(*arguments, **keywords)
        return norm * math.inf if trainer.step == 0 else norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", infinite)
    trainer.train_step()
    assert_same_weights(weights(trainer.model), before)
    assert (trainer.step, trainer.tokens, trainer.state.skipped_steps) == (1, 0, 1)
    trainer.train_step()
    assert trainer.tokens > 0
    assert any(
        not torch.equal(left, right)
        for left, right in zip(weights(trainer.model).values(), before.values(), strict=True)
    )
