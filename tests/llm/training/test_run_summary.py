"""What a trainer says came of the run."""

import json
from dataclasses import FrozenInstanceError

import pytest

from llm.training import Trainer


@pytest.fixture
def make_trainer(make_model, make_config, dataset, tokenizer):
    def make(folder, *, loggers=(), **changes):
        settings = {"steps": 6, "save_every": 2, "validate_every": 1, "learning_rate": 1e-2}
        return Trainer(
            make_model(),
            dataset,
            make_config(**{**settings, **changes}),
            validation_dataset=dataset,
            tokenizer=tokenizer,
            run_folder=folder,
            loggers=loggers,
            show_progress=False,
        )

    return make


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_finished_run_says_what_came_of_it_and_where_it_is(make_trainer, tmp_path):
    run = tmp_path / "run"
    trainer = make_trainer(run, loggers=["tensorboard"])
    trainer.train()
    summary = trainer.summary()
    losses = {line["step"]: line["validation_loss"] for line in lines_of(run) if len(line) == 3}
    assert summary.best_loss == min(losses.values())
    assert losses[summary.best_loss_step] == summary.best_loss
    assert summary.steps == 6
    assert summary.tokens == trainer.tokens > 0
    assert summary.skipped_steps == 0
    assert summary.tokens_per_second == summary.tokens / summary.seconds
    assert summary.run_folder == run
    assert summary.final_model == run / "final"
    assert summary.best_checkpoint == run / f"step-{trainer.state.best_step:06d}"
    assert summary.best_checkpoint.is_dir()
    assert summary.metrics == run / "metrics.jsonl"
    assert summary.logs == (run / "tensorboard",)
    with pytest.raises(FrozenInstanceError):
        summary.steps = 7


def test_its_text_has_one_line_for_each_thing(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", loggers=["tensorboard"])
    trainer.train()
    trainer.state.seconds = 2.0
    trainer.state.tokens = 3000
    summary = trainer.summary()
    assert str(summary).splitlines() == [
        "Trained 6 steps, 3,000 tokens, in 2 s: 1,500 tokens/s",
        f"Best validation loss: {summary.best_loss:.3f} nats/token, after step "
        f"{summary.best_loss_step}",
        f"The run is in {tmp_path / 'run'}:",
        "  final/          the trained model",
        f"  {summary.best_checkpoint.name}/    the best checkpoint",
        "  metrics.jsonl   what was measured",
        "  tensorboard/    the same, for tensorboard",
    ]


def test_a_resumed_run_counts_from_its_beginning(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    first = make_trainer(tmp_path / "run")
    first.train(until=4)
    before = first.summary()
    # not at its end: there is no final model
    assert before.final_model is None
    assert before.steps == 4
    second = make_trainer(tmp_path / "run")
    second.resume()
    second.train()
    summary = second.summary()
    assert summary.steps == whole.summary().steps
    assert summary.tokens == whole.summary().tokens
    assert summary.best_loss == whole.summary().best_loss
    assert summary.best_loss_step == whole.summary().best_loss_step
    # the time of the first is in the checkpoint that it ended with
    assert summary.seconds > second.state.seconds - before.seconds > 0
    more = make_trainer(tmp_path / "run", steps=8)
    more.resume()
    # what is in final/ is not of this run, which goes on
    assert more.summary().final_model is None


def test_only_training_takes_time(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", save_every=0)
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    step = trainer.train_step

    def slow_step():
        nonlocal now
        now += 5
        return step()

    trainer.train_step = slow_step
    trainer.train(until=4)
    assert trainer.summary().seconds == 20
    now += 1000
    trainer.validate()
    trainer.train()
    assert trainer.summary().seconds == 30
    now += 1000
    trainer.save_checkpoint()
    assert trainer.summary().seconds == 30


def test_skipped_steps_are_said(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", on_bad_step="skip")
    clip = trainer._clip
    monkeypatch.setattr(
        trainer, "_clip", lambda scale: float("inf") if trainer.step == 1 else clip(scale)
    )
    trainer.train()
    assert trainer.summary().skipped_steps == 1
    assert "Skipped steps: 1" in str(trainer.summary())


def test_without_a_run_folder_there_is_nowhere_to_look(make_trainer):
    trainer = make_trainer(None, save_every=0)
    assert trainer.summary().tokens_per_second == 0
    trainer.train()
    summary = trainer.summary()
    assert (summary.steps, summary.run_folder, summary.logs) == (6, None, ())
    assert len(str(summary).splitlines()) == 1
