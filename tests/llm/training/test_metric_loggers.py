"""The logs that people look at say what metrics.jsonl says, however a run went."""

import importlib.util
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm.training import (
    MetricLogger,
    MissingPackageError,
    Trainer,
    TrainingStoppedError,
    delete_run,
    flat_line,
)
from llm.training.metric_loggers import MetricLoggers
from llm.training.ranks import Ranks
from llm.training.trackio_logger import TrackioLogger
from llm.training.trainer import _Speed


@pytest.fixture
def make_trainer(make_model, make_config, dataset, tokenizer):
    def make(folder, *loggers, validation_dataset=dataset, **changes):
        settings = {"steps": 8, "save_every": 3, "validate_every": 2, "sample_every": 3}
        return Trainer(
            make_model(),
            dataset,
            make_config(**{**settings, **changes}),
            validation_dataset=validation_dataset,
            tokenizer=tokenizer,
            sample_prompts=["The cat", "Кошка"],
            sample_options={"max_new_tokens": 4},
            run_folder=folder,
            loggers=loggers,
            show_progress=False,
        )

    return make


def expected(folder):
    """What metrics.jsonl has: numbers and texts by name, each a list of (step, value)."""
    numbers, texts = {}, {}
    for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        line = json.loads(text)
        step = line.pop("step")
        if "sample" in line:
            texts.setdefault("sample", []).append((step, line.pop("prompt") + line.pop("sample")))
        for name, value in line.pop("validation_losses", {}).items():
            numbers.setdefault(f"validation_losses/{name}", []).append((step, value))
        for name, value in line.items():
            if value is not None:
                numbers.setdefault(name, []).append((step, value))
    return numbers, texts


def in_tensorboard(folder):
    """What TensorBoard's own reader finds in a run folder."""
    reader = read_events(folder)
    tags = reader.Tags()
    numbers = {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags["scalars"]
    }
    texts = {}
    for tag in tags["tensors"]:
        name = tag.removesuffix("/text_summary")
        texts[name] = [
            (event.step, unquoted(event.tensor_proto.string_val[0].decode()))
            for event in reader.Tensors(tag)
        ]
    return numbers, texts


def read_events(folder):
    everything = {"scalars": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=everything).Reload()


def times_in_tensorboard(folder):
    return [event.wall_time for event in read_events(folder).Scalars("loss")]


def unquoted(markdown):
    """The text of a code block of Markdown."""
    lines = markdown.splitlines(keepends=True)
    assert all(line.startswith("    ") for line in lines)
    return "".join(line[4:] for line in lines)


# trackio keeps the folder that it found when it was imported
READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_run_records(sys.argv[1])
lines = [SQLiteStorage.get_logs(sys.argv[1], each["name"], run_id=each["id"]) for each in runs]
print(json.dumps(lines))
"""


def in_trackio(folder):
    """What trackio's own reader finds in a run folder."""
    process = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO, folder.name],
        env={**os.environ, "TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    runs = json.loads(process.stdout)
    assert len(runs) == 1
    numbers, texts = {}, {}
    for line in runs[0]:
        del line["timestamp"]
        step = line.pop("step")
        for name, value in line.items():
            if isinstance(value, dict):
                texts.setdefault(name, []).append((step, unquoted(value["_value"])))
            else:
                numbers.setdefault(name, []).append((step, value))
    return numbers, texts


def assert_same(found, folder, *, rel):
    numbers, texts = expected(folder)
    assert found[1] == texts
    assert found[0].keys() == numbers.keys()
    for name, points in numbers.items():
        assert [step for step, _ in found[0][name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in found[0][name]] == pytest.approx(values, rel=rel), name


def assert_in_tensorboard(folder):
    # which keeps float32
    assert_same(in_tensorboard(folder), folder, rel=1e-7)


def test_tensorboard_says_what_the_metrics_say(make_trainer, dataset, tmp_path):
    sets = {"one": dataset, "another": dataset}
    trainer = make_trainer(tmp_path / "run", "tensorboard", validation_dataset=sets)
    trainer.train()
    assert_in_tensorboard(tmp_path / "run")
    numbers, texts = in_tensorboard(tmp_path / "run")
    assert [step for step, _ in numbers["loss"]] == list(range(1, 9))
    assert [step for step, _ in numbers["validation_losses/another"]] == [2, 4, 6, 8]
    assert [step for step, _ in texts["sample"]] == [3, 3, 6, 6]
    assert texts["sample"][1][1].startswith("Кошка")


def test_a_resumed_run_shows_no_step_twice(make_trainer, tmp_path):
    run = tmp_path / "run"
    make_trainer(run, "tensorboard").train(until=5)
    stopped = make_trainer(run, "tensorboard")
    # a crash after more steps than the checkpoint has
    stopped.resume()
    for _ in range(2):
        stopped.train_step()
        stopped._log(1.0, some_speed())
    assert [step for step, _ in in_tensorboard(run)[0]["loss"]] == [*range(1, 8)]
    resumed = make_trainer(run, "tensorboard")
    resumed.resume(run / "step-000003")
    resumed.train()
    assert_in_tensorboard(run)
    assert [step for step, _ in in_tensorboard(run)[0]["loss"]] == list(range(1, 9))


def test_lines_from_before_have_the_times_that_their_speed_tells(make_trainer, tmp_path):
    make_trainer(tmp_path / "run").train(until=6)
    resumed = make_trainer(tmp_path / "run", "tensorboard")
    resumed.resume()
    resumed.validate()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    lines = [line for line in map(json.loads, lines) if "loss" in line]
    times = times_in_tensorboard(tmp_path / "run")
    assert len(times) == 6
    assert abs(times[-1] - time.time()) < 60
    for index in range(1, 6):
        tokens = lines[index]["tokens"] - lines[index - 1]["tokens"]
        seconds = tokens / lines[index]["tokens_per_second"]
        assert times[index] - times[index - 1] == pytest.approx(seconds, abs=1e-4)


def test_a_log_asked_for_later_has_all_and_one_left_out_for_a_while_too(make_trainer, tmp_path):
    run = tmp_path / "run"
    for loggers, until in (((), 3), (("tensorboard",), 5), ((), 6), (("tensorboard",), None)):
        trainer = make_trainer(run, *loggers)
        if (run / "run.json").exists():
            trainer.resume()
        trainer.train(until=until)
    assert_in_tensorboard(run)


def test_what_is_measured_outside_of_training_is_logged(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", "tensorboard")
    trainer.sample()
    assert_in_tensorboard(tmp_path / "run")
    with trainer.writing():
        trainer.train(until=3)
        trainer.sample()
    trainer.validate()
    assert_in_tensorboard(tmp_path / "run")
    assert [step for step, _ in in_tensorboard(tmp_path / "run")[1]["sample"]] == [0, 0, 3, 3]


def test_a_tensorboard_that_watches_forgets_the_steps_that_are_trained_again(
    make_trainer, tmp_path
):
    run = tmp_path / "run"
    make_trainer(run, "tensorboard").train(until=5)
    watching = read_events(run)
    resumed = make_trainer(run, "tensorboard")
    resumed.resume(run / "step-000003")
    resumed.train(until=4)
    watching.Reload()
    assert [event.step for event in watching.Scalars("loss")] == [1, 2, 3, 4]


class Recorder:
    """A logger of one's own, which fails when told."""

    def __init__(self, fails_in=None, at=None):
        self.fails_in, self.at = fails_in, at
        self.lines, self.calls = [], []

    def _note(self, method):
        self.calls.append(method)
        if method == self.fails_in and (self.at is None or len(self.calls) >= self.at):
            raise OSError("no space left")

    def begin(self, run_folder, lines):
        self._note("begin")
        assert (run_folder / "metrics.jsonl").is_file()
        self.lines = list(lines)

    def log(self, line):
        self._note("log")
        self.lines.append(line)

    def close(self):
        self._note("close")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_logger_of_ones_own_gets_every_line_and_is_closed_once(make_trainer, tmp_path):
    recorder = Recorder()
    assert isinstance(recorder, MetricLogger)
    make_trainer(tmp_path / "run", recorder).train()
    assert recorder.lines == lines_of(tmp_path / "run")
    assert recorder.calls[0] == "begin"
    assert recorder.calls.count("begin") == recorder.calls.count("close") == 1
    assert recorder.calls[-1] == "close"


@pytest.mark.parametrize("method", ["begin", "log", "close"])
def test_a_logger_that_fails_is_left_out_with_one_warning(make_trainer, tmp_path, caplog, method):
    failing, other = Recorder(method, at=4 if method == "log" else None), Recorder()
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "run", failing, other).train()
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "Recorder failed" in warning.message
    assert "OSError: no space left" in warning.message
    assert failing.calls[-1] == method
    assert other.lines == lines_of(tmp_path / "run")
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    # the weights are those of a run without loggers
    make_trainer(tmp_path / "plain").train()
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == (
        tmp_path / "plain" / "final" / "model.safetensors"
    ).read_bytes()


def test_loggers_are_closed_after_a_signal_and_after_an_error(
    make_trainer, tmp_path, monkeypatch, dataset
):
    stopped = Recorder()
    trainer = make_trainer(tmp_path / "stopped", stopped)
    step = trainer.train_step

    def step_and_signal():
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    monkeypatch.setattr(trainer, "train_step", step_and_signal)
    with pytest.raises(TrainingStoppedError):
        trainer.train()
    assert stopped.calls[-1] == "close"
    assert stopped.lines == lines_of(tmp_path / "stopped")

    failed = Recorder()
    trainer = make_trainer(tmp_path / "failed", failed)

    def fail(*_, **__):
        raise RuntimeError("the validation fails")

    monkeypatch.setattr(trainer, "validate", fail)
    with pytest.raises(RuntimeError, match="the validation fails"):
        trainer.train()
    assert failed.calls[-1] == "close"
    assert [line["step"] for line in failed.lines] == [1, 2]


def test_a_resume_while_they_are_open_begins_them_anew(make_trainer, tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path / "run", recorder)
    with trainer.writing():
        trainer.train(until=5)
        trainer.resume(tmp_path / "run" / "step-000003")
        trainer.train(until=6)
        assert recorder.lines == lines_of(tmp_path / "run")
    assert [line["step"] for line in recorder.lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def some_speed():
    speed = _Speed()
    speed.add(8, 2)
    return speed


def test_only_the_main_rank_logs(make_trainer, tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path / "run", recorder, "tensorboard")
    trainer.ranks = Ranks(1, 2)
    trainer._log(1.0, some_speed())
    trainer.validate()
    trainer.sample()
    assert recorder.calls == []
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_an_error_that_names_the_extra(make_trainer, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name != "trackio" and found(name, *rest)
    )
    make_trainer(tmp_path / "run", "tensorboard")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trackio" else found(name)
    )
    with pytest.raises(MissingPackageError, match=r"install llm\[trackio\]"):
        make_trainer(tmp_path / "run", "tensorboard", "trackio")


@pytest.mark.parametrize(
    ("loggers", "error", "message"),
    [
        (["wandb"], ValueError, "'wandb' is not one of tensorboard, trackio"),
        (["tensorboard", "tensorboard"], ValueError, "names one twice"),
        (["tensorboard", object()], TypeError, "it needs begin, log and close"),
    ],
)
def test_what_is_no_logger_is_refused(make_trainer, tmp_path, loggers, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path / "run", *loggers)


def test_loggers_need_a_run_folder_and_a_list(make_trainer, make_model, make_config, dataset):
    with pytest.raises(ValueError, match="loggers need a run_folder"):
        make_trainer(None, "tensorboard")
    with pytest.raises(TypeError, match="give a list"):
        Trainer(make_model(), dataset, make_config(), loggers="tensorboard")


def test_packages_are_imported_only_when_asked_for(tmp_path):
    code = (
        "import sys, llm.training\n"
        "wrong = {'tensorboard', 'trackio', 'torch.utils.tensorboard'} & set(sys.modules)\n"
        "sys.exit(f'imported: {wrong}' if wrong else 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_logs_are_part_of_a_run(make_trainer, tmp_path):
    make_trainer(tmp_path / "run", "tensorboard").train(until=2)
    (tmp_path / "run" / "trackio").mkdir()
    (tmp_path / "run" / "tensorboard-of-mine").mkdir()
    with pytest.raises(FileExistsError, match="tensorboard-of-mine"):
        delete_run(tmp_path / "run")
    (tmp_path / "run" / "tensorboard-of-mine").rmdir()
    delete_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_line_is_flat():
    line = {
        "step": 3,
        "loss": None,
        "tokens": 7,
        "validation_losses": {"en": 1.5, "ru": {"news": 2.5}},
        "prompt": "A",
        "sample": "b",
    }
    numbers = {"tokens": 7, "validation_losses/en": 1.5, "validation_losses/ru/news": 2.5}
    assert flat_line(line) == (numbers, {"sample": "Ab"})


# of train_on_ranks.py, so that another process can make it too
make_other_trainer = runpy.run_path(str(Path(__file__).with_name("train_on_ranks.py")))[
    "make_trainer"
]
DIE_IN_STEP_SIX = """
import os, runpy, signal, sys
from llm.training.metric_loggers import MetricLoggers
make_trainer = runpy.run_path(sys.argv[1])["make_trainer"]
trainer = make_trainer(sys.argv[2], steps=8, save_every=3, sample_every=3)
trainer.loggers = MetricLoggers(["trackio", "tensorboard"])
step = trainer.train_step
trainer.train_step = lambda: (
    os.kill(os.getpid(), signal.SIGKILL) if trainer.step == 5 else step()
)
trainer.train()
"""


@pytest.mark.slow
def test_trackio_says_what_the_metrics_say_after_a_kill_and_a_resume(tmp_path):
    run = tmp_path / "run"
    worker = str(Path(__file__).with_name("train_on_ranks.py"))
    process = subprocess.run([sys.executable, "-c", DIE_IN_STEP_SIX, worker, str(run)])
    assert process.returncode == -signal.SIGKILL
    # what was given to trackio's process is written all the same
    deadline = time.monotonic() + 60
    while not list((run / "trackio").glob("*.db")) or len(in_trackio(run)[0].get("loss", [])) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert_same(in_trackio(run), run, rel=1e-12)
    assert_in_tensorboard(run)
    resumed = make_other_trainer(run, steps=8, save_every=3, sample_every=3)
    resumed.loggers = MetricLoggers(["trackio", "tensorboard"])
    resumed.resume()
    assert resumed.step == 3
    resumed.train()
    assert_same(in_trackio(run), run, rel=1e-12)
    assert_in_tensorboard(run)
    assert [step for step, _ in in_trackio(run)[0]["loss"]] == list(range(1, 9))


@pytest.mark.slow
def test_trackios_process_of_a_killed_training_does_not_mix_with_the_next(tmp_path):
    lines = [{"step": step, "loss": float(step)} for step in range(1, 2001)]
    left, new = TrackioLogger(), TrackioLogger()
    left.begin(tmp_path, lines)
    # as the end of its training leaves it
    left._process.stdin.close()
    new.begin(tmp_path, lines[:3])
    new.close()
    left._process.wait(60)
    assert in_trackio(tmp_path) == ({"loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}, {})


@pytest.mark.slow
def test_trackios_process_outlives_a_signal_to_all(tmp_path):
    log = TrackioLogger()
    log.begin(tmp_path, [{"step": 1, "loss": 1.0}])
    log._process.send_signal(signal.SIGTERM)
    log.log({"step": 2, "loss": 2.0})
    log.close()
    assert in_trackio(tmp_path) == ({"loss": [(1, 1.0), (2, 2.0)]}, {})


@pytest.mark.slow
def test_trackios_process_that_dies_is_one_warning(make_trainer, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "run", "trackio")
    step = trainer.train_step

    def step_and_kill():
        if trainer.step == 4:
            process = trainer.loggers._loggers[0]._process
            process.kill()
            process.wait()
        return step()

    trainer.train_step = step_and_kill
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "TrackioLogger failed" in warning.message
    assert "exit code -9" in warning.message
    assert lines_of(tmp_path / "run")[-1]["step"] == 8


@pytest.mark.slow
def test_what_trackio_swallows_is_said(make_trainer, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "run", "trackio")
    step = trainer.train_step

    def step_and_spoil():
        if trainer.step == 1:
            deadline = time.monotonic() + 60
            while not (databases := list((tmp_path / "run" / "trackio").glob("*.db"))):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            databases[0].unlink()
            databases[0].mkdir()
        return step()

    trainer.train_step = step_and_spoil
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "TrackioLogger failed" in warning.message


# runs before anything else in each process that is started with it on its path
WATCH = """
import os, sys
def watch(event, arguments):
    if event.startswith(("socket.", "sqlite3.connect", "webbrowser.", "urllib.", "subprocess.")):
        with open(os.environ["SEEN"], "a") as seen:
            print(event, arguments, file=seen)
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_trackio_asks_nobody_even_where_there_is_a_token(make_trainer, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("HF_TOKEN", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.setenv(name, "hf_none")
    make_trainer(tmp_path / "run", "trackio").train(until=2)
    assert_same(in_trackio(tmp_path / "run"), tmp_path / "run", rel=1e-12)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert any(line.startswith("sqlite3.connect") for line in seen)
    assert [line for line in seen if not line.startswith("sqlite3.connect")] == []
