"""A run that was stopped, killed or damaged goes on where it was, to the same bits."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from llm.training import (
    ResumeMismatchError,
    RunInUseError,
    ShuffledStream,
    Trainer,
    TrainingStoppedError,
    list_checkpoints,
    verify_checkpoint,
    verify_resume,
)
from llm.training.resume_check import _outcome, _same


@pytest.fixture
def make_trainer(make_model, make_config, dataset, tokenizer):
    """Trainers with everything that could disturb a run, their first weights by a seed apart."""

    def make(folder, *, weights_seed=0, model_class=None, dataset=dataset, **changes):
        settings = {
            "steps": 6,
            "accumulation_steps": 2,
            "warmup_ratio": 0.5,
            "log_every": 4,
            "validate_every": 2,
            "sample_every": 3,
            "save_every": 2,
        }
        return Trainer(
            make_model(**({"model_class": model_class} if model_class else {}), seed=weights_seed),
            dataset,
            make_config(**{**settings, **changes}),
            validation_dataset=dataset,
            tokenizer=tokenizer,
            sample_prompts=["The cat", "Кошка"],
            sample_options={"max_new_tokens": 3},
            run_folder=folder,
            show_progress=False,
        )

    return make


def assert_same_run(left, right):
    expected = _outcome(right)
    for name, value in _outcome(left).items():
        assert _same(value, expected[name]), name


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


# exact


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_run_stopped_after_any_step_ends_in_the_same_bits(
    make_trainer, tmp_path, model_class, stop
):
    whole = make_trainer(tmp_path / "whole", model_class=model_class)
    whole.train()
    assert make_trainer(tmp_path / "run", model_class=model_class).train(until=stop) is None
    assert not (tmp_path / "run" / "final").exists()
    resumed = make_trainer(tmp_path / "run", model_class=model_class, weights_seed=9)
    assert resumed.resume().name == f"step-{stop:06d}"
    assert resumed.step == stop
    resumed.train()
    assert_same_run(resumed, whole)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        left, right = (tmp_path / run / "final" / name for run in ("run", "whole"))
        assert left.read_bytes() == right.read_bytes()


def test_several_stops_in_a_row_change_nothing(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    make_trainer(tmp_path / "run").train(until=1)
    for stop in (2, 3, 5, None):
        trainer = make_trainer(tmp_path / "run")
        trainer.resume()
        trainer.train(until=stop)
    assert_same_run(trainer, whole)
    description = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert [entry["step"] for entry in description["resumed"]] == [1, 2, 3, 5]


def test_what_was_measured_after_the_checkpoint_is_forgotten(make_trainer, tmp_path):
    whole = make_trainer(tmp_path / "whole", keep_checkpoints=9)
    whole.train()
    for step in (4, 2):
        resumed = make_trainer(tmp_path / "whole", keep_checkpoints=9)
        folder = tmp_path / "whole" / f"step-{step:06d}"
        assert resumed.resume(folder) == folder
        assert all(line["step"] <= step for line in metrics(tmp_path / "whole"))
        resumed.train()
        assert_same_run(resumed, whole)
    # the later ones are there, under names that nobody goes on from
    names = {path.name for path in (tmp_path / "whole").glob("*.aside-*")}
    assert names == {
        "step-000006.aside-1",
        "step-000004.aside-1",
        "step-000006.aside-2",
    }


def test_a_finished_run_goes_on_with_more_steps(make_trainer, tmp_path):
    make_trainer(tmp_path / "run").train()
    again = make_trainer(tmp_path / "run")
    again.resume()
    before = metrics(tmp_path / "run")
    again.train()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [
        *(line["step"] for line in before),
        6,
    ]
    longer = make_trainer(tmp_path / "run", steps=9)
    longer.resume()
    # the learning rate is that of the longer schedule
    expected = make_trainer(tmp_path / "other", steps=9)
    expected.train(until=6)
    assert longer.schedule.get_last_lr() == expected.schedule.get_last_lr()
    longer.train()
    assert longer.step == 9
    saved = torch.nn.utils.parameters_to_vector(longer.model.parameters())
    loaded = type(longer.model).from_pretrained(tmp_path / "run" / "final")
    assert torch.equal(torch.nn.utils.parameters_to_vector(loaded.parameters()), saved)
    changed = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["resumed"][-1]
    assert changed == {"step": 6, "changed": {"training.steps": [6, 9]}}


def test_the_proof_accepts_what_is_exact_and_catches_what_is_not(make_trainer, make_model):
    verify_resume(make_trainer, steps=4)
    numbers = iter(range(1000))

    def draw(number):
        torch.rand(number)

    def restless(folder):
        trainer = make_trainer(folder)
        # draws as often as something counts that no checkpoint knows
        trainer.model.decoder.register_forward_pre_hook(lambda *_: draw(next(numbers)))
        return trainer

    with pytest.raises(
        ResumeMismatchError, match=r"stopped after step 1.*step 3 has another model"
    ):
        verify_resume(restless, steps=3)
    with pytest.raises(ValueError, match="steps=7 is more than the trainer's 6"):
        verify_resume(make_trainer, steps=7)
    with pytest.raises(ValueError, match="at least 2"):
        verify_resume(make_trainer, steps=1)


# settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "training.seed was 0 and is 1"),
        ({"learning_rate": 0.5}, "training.learning_rate was 0.001 and is 0.5"),
        ({"batch_size": 2, "schedule": "linear"}, r"step was 8 and is 4.*schedule was cosine"),
        ({"steps": 5}, "training.steps was 6 and is 5"),
    ],
)
def test_other_settings_are_refused_by_name(make_trainer, tmp_path, changes, message):
    make_trainer(tmp_path / "run").train(until=2)
    other = make_trainer(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=message):
        other.resume()
    # or allowed, by name
    other.resume(allow_changed=[*changes, "examples_per_step"])
    with pytest.raises(ValueError, match="'colour' is not a setting"):
        make_trainer(tmp_path / "run").resume(allow_changed=["colour"])


def test_how_often_is_free(make_trainer, tmp_path):
    make_trainer(tmp_path / "run").train(until=2)
    resumed = make_trainer(
        tmp_path / "run", log_every=1, validate_every=1, sample_every=0, save_every=1
    )
    resumed.resume()
    resumed.train()
    assert resumed.step == 6


def test_other_data_and_another_tokenizer_are_refused(make_trainer, dataset, tmp_path, texts):
    make_trainer(tmp_path / "run").train(until=2)
    other = type(dataset)(dataset.token_ids[:-1], block_size=16, stride=15)
    with pytest.raises(ValueError, match=r"fingerprints\.train_dataset was"):
        make_trainer(tmp_path / "run", dataset=other).resume()


def test_another_architecture_is_refused(make_trainer, make_model, tmp_path):
    make_trainer(tmp_path / "run").train(until=2)
    other = make_trainer(tmp_path / "run")
    other.model = make_model(num_layers=1)
    with pytest.raises(ValueError, match=r"model\.num_layers was 2 and is 1"):
        other.resume()


# one run, one writer


def test_a_run_is_not_started_twice(make_trainer, tmp_path):
    make_trainer(tmp_path / "run").train(until=1)
    with pytest.raises(FileExistsError, match="holds a run already: resume it"):
        make_trainer(tmp_path / "run").train()
    with pytest.raises(FileNotFoundError, match=r"run\.json does not exist"):
        make_trainer(tmp_path / "nothing").resume()


def test_a_second_process_is_refused_until_the_first_is_dead(make_trainer, tmp_path):
    make_trainer(tmp_path / "run").train(until=1)
    hold = textwrap.dedent("""
        import sys, time
        from llm.training.run_folder import RunFolder
        with RunFolder(sys.argv[1]).writing():
            print("held", flush=True)
            time.sleep(60)
        """)
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunInUseError, match="another process writes"):
            make_trainer(tmp_path / "run").resume()
    finally:
        process.kill()
        process.wait()
    resumed = make_trainer(tmp_path / "run")
    resumed.resume()
    resumed.train()


# signals


class Signalling:
    """A dataset in which reading the n-th example sends this process a signal."""

    def __init__(self, dataset, number, count):
        self.dataset, self.number, self.count = dataset, number, count

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.count -= 1
        if self.count == 0:
            signal.raise_signal(self.number)
        return self.dataset[index]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_signal_ends_after_the_step_and_the_run_goes_on(
    make_trainer, dataset, tmp_path, number, where
):
    whole = make_trainer(tmp_path / "whole", save_every=3)
    whole.train()
    # 8 examples a step; validation after step 2 reads the dataset once
    count = 8 * 2 + 3 if where == "training" else 2
    stopped = make_trainer(tmp_path / "run", save_every=3)
    signalling = Signalling(dataset, number, count)
    if where == "training":
        stopped.stream = ShuffledStream(signalling, stopped.config.seed)
    else:
        stopped.validation_dataset = signalling
    stopped.config = dataclasses.replace(stopped.config, batch_size=4)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingStoppedError, match=f"{number.name} after step ") as caught:
        stopped.train()
    assert caught.value.exit_code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    step = 3 if where == "training" else 2
    assert [path.name for path in list_checkpoints(tmp_path / "run")][-1] == f"step-{step:06d}"
    resumed = make_trainer(tmp_path / "run", save_every=3, weights_seed=4)
    resumed.resume(allow_changed=("train_dataset", "validation_dataset"))
    resumed.train()
    outcome, expected = _outcome(resumed), _outcome(whole)
    assert _same(outcome["model"], expected["model"])
    assert _same(outcome["metrics"], expected["metrics"])


def test_a_second_signal_stops_at_once(make_trainer, dataset, tmp_path):
    class Twice(Signalling):
        def __getitem__(self, index):
            # in this thread, before it goes on: of two that wait, one would be lost
            signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    trainer = make_trainer(tmp_path / "run")
    trainer.stream = ShuffledStream(Twice(dataset, signal.SIGINT, 0), 0)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.step == 0


# damage


def damage(path, kind):
    content = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "foreign":
        path.with_name("other.bin").write_bytes(b"x")
    else:
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :]
        path.write_bytes({"flipped": flipped, "short": content[:-2], "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "gone", "foreign"])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "config.json",
        "tokenizer.json",
        "MANIFEST.json",
    ],
)
def test_resume_names_the_damage_and_falls_back(make_trainer, tmp_path, caplog, name, kind):
    trainer = make_trainer(tmp_path / "run", sample_every=0)
    trainer.train(until=4)
    older, newest = list_checkpoints(tmp_path / "run")
    damage(newest / name, kind)
    resumed = make_trainer(tmp_path / "run", sample_every=0)
    assert resumed.resume() == older
    assert "step-000004" in caplog.text
    assert ("other.bin" if kind == "foreign" else name) in caplog.text
    assert f"going on from {older}" in caplog.text
    assert newest.with_name("step-000004.aside-1").is_dir()
    # exactly the one that was asked for, or none
    damage(older / name, kind)
    with pytest.raises((ValueError, FileNotFoundError), match="step-000002"):
        make_trainer(tmp_path / "run", sample_every=0).resume(older)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from; 1 are damaged"):
        make_trainer(tmp_path / "run", sample_every=0).resume()


HOSTILE_STATES = {
    "step": [-1, 2.5, "3", None, True, 10**400],
    "tokens": [-1, [], {}],
    "seconds": [float("nan"), float("inf"), -1, "1"],
    "window_loss": [float("nan"), float("inf"), [1]],
    "mean_loss": [float("nan"), None],
    "metrics_bytes": [-1, 0.5],
    "best_step": [-1, "1"],
    "random": [None, [], {"cpu": 3}, {"cpu": "@"}, {"cpu": "AAAA"}],
    "optimizer": [None, 3, "SGD"],
    "colour": ["blue"],
}


def write_checked(folder, name, content):
    """Put a file into a checkpoint whose manifest agrees with it."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"size": len(content), "sha256": digest}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    verify_checkpoint(folder)


def test_hostile_states_are_refused(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", sample_every=0)
    trainer.train(until=2)
    [folder] = list_checkpoints(tmp_path / "run")
    good = json.loads((folder / "trainer_state.json").read_text())
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    for name, values in HOSTILE_STATES.items():
        for value in values:
            bad = json.dumps({**good, name: value}).encode()
            write_checked(folder, "trainer_state.json", bad)
            with pytest.raises(ValueError, match=r"damaged|trainer_state|optimizer"):
                trainer.load_checkpoint(folder)
    for content in (b"[" * 100_000, b"[]", b"\xff", b"{}", b""):
        write_checked(folder, "trainer_state.json", content)
        with pytest.raises(ValueError, match=r"trainer_state|optimizer"):
            trainer.load_checkpoint(folder)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_hostile_tensors_are_refused(make_trainer, tmp_path):
    from safetensors.torch import load_file, save

    trainer = make_trainer(tmp_path / "run", sample_every=0)
    trainer.train(until=2)
    [folder] = list_checkpoints(tmp_path / "run")
    tensors = load_file(folder / "optimizer.safetensors")
    name = next(name for name in tensors if name.startswith("exp_avg.") and tensors[name].ndim == 2)
    one = tensors[name]
    for bad in (one[:1].contiguous(), one.T.contiguous()[:3], one.to(torch.int32), one * torch.nan):
        write_checked(folder, "optimizer.safetensors", save({**tensors, name: bad}))
        with pytest.raises(ValueError, match=r"optimizer\.safetensors"):
            trainer.load_checkpoint(folder)
    header = json.dumps({name: {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}})
    for content in (
        (10**18).to_bytes(8, "little"),
        len(header).to_bytes(8, "little") + header.encode() + bytes(4),
        (1 << 63).to_bytes(8, "little") + b"{",
    ):
        for file in ("optimizer.safetensors", "model.safetensors"):
            good = (folder / file).read_bytes()
            write_checked(folder, file, content)
            with pytest.raises(ValueError, match=file):
                trainer.load_checkpoint(folder)
            write_checked(folder, file, good)
