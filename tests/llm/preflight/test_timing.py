"""The time of a run, by a few of its steps."""

import time

import pytest

from llm.models.gpt import GPT
from llm.preflight import StepTimes, time_steps
from llm.training import Trainer, TrainingConfig


class Slow:
    """Examples each of which takes a while."""

    def __init__(self, ids, seconds):
        self.ids, self.seconds = ids, seconds

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


@pytest.fixture
def trainer(tiny, random_ids):
    ids = random_ids(41, 8, 12)
    config = TrainingConfig(steps=50, batch_size=2, device="cpu")
    return Trainer(GPT(tiny("gpt")), Slow(ids, 0.01), config, show_progress=False)


def test_the_time_is_that_of_real_steps_data_included(trainer):
    started = time.perf_counter()
    times = time_steps(trainer, 3)
    assert trainer.step == 4  # one does not count
    assert times.num_targets == (22, 22, 22)
    assert 3 * 0.02 < sum(times.seconds) < time.perf_counter() - started
    assert times.run_seconds(50) >= 50 * 0.02
    assert times.tokens_per_second <= 22 / 0.02


def test_one_step_that_was_held_up_changes_nothing():
    times = StepTimes(seconds=(1.0, 1.0, 99.0, 1.0, 1.0), num_targets=(100,) * 5)
    assert times.tokens_per_second == 100
    assert times.run_seconds(10) == 10


def test_a_run_is_not_moved_on_by_its_measurement(trainer, tiny, tmp_path):
    with pytest.raises(ValueError, match="num_steps=0"):
        time_steps(trainer, 0)
    real = Trainer(
        *(GPT(tiny("gpt")), trainer.train_dataset, trainer.config), run_folder=tmp_path / "run"
    )
    with pytest.raises(ValueError, match="without a run_folder"):
        time_steps(real)
    assert real.step == 0
