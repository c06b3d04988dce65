"""Whatever operation a run dies in, it goes on; what cannot be written leaves the rest whole."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from llm.training import Trainer, delete_run, list_checkpoints, verify_checkpoint
from llm.training.run_folder import RunFolder, RunInUseError

SCRIPT = Path(__file__).with_name("kill_at_every_operation.py")


def survived_of_tried(folder, first, stride):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(first), str(stride)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    operations, survived, tried = map(int, re.findall(r"\d+", process.stdout))
    assert operations > 200
    assert tried == len(range(first, operations + 1, stride))
    return survived, tried, process.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs to kill are forked")
def test_runs_killed_at_some_operations_go_on_to_the_same_bits(tmp_path):
    survived, tried, errors = survived_of_tried(tmp_path, 3, 53)
    assert survived == tried, errors


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs to kill are forked")
def test_runs_killed_at_many_operations_go_on_to_the_same_bits(tmp_path):
    survived, tried, errors = survived_of_tried(tmp_path, 1, 8)
    assert survived == tried, errors


@pytest.fixture
def make_trainer(make_model, make_config, dataset, tokenizer, tmp_path):
    def make(**changes):
        return Trainer(
            make_model(),
            dataset,
            make_config(**{"steps": 6, "save_every": 2, **changes}),
            tokenizer=tokenizer,
            run_folder=tmp_path / "run",
            show_progress=False,
        )

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["weights", "fsync", "rename"])
def test_what_cannot_be_written_leaves_the_old_checkpoints_whole(
    make_trainer, tmp_path, monkeypatch, number, where
):
    make_trainer().train(until=2)
    trainer = make_trainer()
    trainer.resume()

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if where == "weights":
            patch.setattr("llm.training.checkpoint.save_file", fail)
        else:
            patch.setattr(os, where, fail)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            trainer.train()
    [folder] = list_checkpoints(tmp_path / "run")
    verify_checkpoint(folder)
    resumed = make_trainer()
    resumed.resume()
    resumed.train()
    assert resumed.step == 6


def test_half_a_file_is_no_checkpoint(make_trainer, tmp_path, monkeypatch):
    """The disk is full in the middle of the weights."""
    trainer = make_trainer()
    trainer.train(until=2)

    def full(tensors, path, **keywords):
        save_file(tensors, path, **keywords)
        os.truncate(path, os.path.getsize(path) // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llm.core.model_folder.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-000002"]


def test_a_run_is_deleted_and_nothing_else(make_trainer, tmp_path):
    run = tmp_path / "run"
    make_trainer().train()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt is not of a run"):
        delete_run(run)
    assert (run / "notes.txt").read_text() == "mine"
    assert list_checkpoints(run)
    (run / "notes.txt").unlink()
    (run / "step-000002.aside-1").mkdir()
    (run / ".step-000004.tmp").mkdir()
    link = tmp_path / "link"
    link.symlink_to(run)
    with pytest.raises(FileExistsError, match="is no run"):
        delete_run(link)
    delete_run(run)
    assert not run.exists()


def test_a_folder_that_is_no_run_is_not_deleted(tmp_path):
    folder = tmp_path / "holidays"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="is no run"):
        delete_run(folder)
    with pytest.raises(FileExistsError, match="not empty, and no run"):
        RunFolder(folder).check_new()
    assert [path.name for path in folder.iterdir()] == ["photo.jpg"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        RunFolder(tmp_path / "file").check_new()


def test_a_run_that_is_written_is_not_deleted(make_trainer, tmp_path):
    make_trainer().train()
    with RunFolder(tmp_path / "run").writing(), pytest.raises(RunInUseError):
        delete_run(tmp_path / "run")
    assert list_checkpoints(tmp_path / "run")
