"""Trackers: what is logged is what happened, once."""

import time

import numpy as np
import pytest
from quadratics import problem, settings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adjointdpm.runs import Callback, RunConfig, optimize, run_folder


class Pictures(Callback):
    def on_step(self, step):
        if step.number % 4 == 0:
            step.tracker.log_images("x", np.full((2, 8, 8, 3), step.number, np.uint8), step.number)


def logged(folder):
    return EventAccumulator(str(folder / "logs" / "adjointdpm")).Reload()


def curve(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_each_step_once_after_a_run_was_killed(tmp_path):
    variable, loss = problem()
    config = settings(
        tmp_path, report_to="tensorboard", checkpointing_steps=5, lr_scheduler="linear"
    )

    class KilledError(Exception):
        pass

    def killed(step, value):
        if step == 8:
            raise KilledError

    with pytest.raises(KilledError):
        optimize({"v": variable}, loss, config, on_step=killed, callbacks=[Pictures()])
    variable, loss = problem()
    config = settings(
        tmp_path, report_to="tensorboard", lr_scheduler="linear", resume_from_checkpoint="latest"
    )
    history = optimize({"v": variable}, loss, config, callbacks=[Pictures()])
    events = logged(tmp_path)
    steps, losses = zip(*curve(events, "loss"), strict=True)
    assert steps == tuple(range(1, 13))
    assert losses == tuple(np.float32(history.losses))
    assert curve(events, "lr")[-1][1] == np.float32(0.05 / 12)
    assert all(value > 0 for _, value in curve(events, "grad_norm"))
    assert [event.step for event in events.Images("x")] == [4, 8, 12]


def test_a_run_is_shown_though_what_it_replaces_was_begun_in_the_same_second(tmp_path):
    folder = tmp_path / "logs" / "adjointdpm"
    variable, loss = problem()
    optimize(
        {"v": variable},
        lambda generator: 2 * loss(generator),
        settings(tmp_path, report_to="tensorboard", max_train_steps=20),
    )
    (killed,) = folder.glob("events*")
    killed.rename(killed.with_name(f"events.out.tfevents.{int(time.time())}.~"))
    variable, loss = problem()
    history = optimize({"v": variable}, loss, settings(tmp_path, report_to="tensorboard"))
    steps, losses = zip(*curve(logged(tmp_path), "loss"), strict=True)
    assert steps == tuple(range(1, 13))
    assert losses == tuple(np.float32(history.losses))


def test_a_tracker_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    config = RunConfig(output_dir=tmp_path / "run", report_to="swanlab")
    with (
        pytest.raises(ImportError, match="needs a package: pip install swanlab"),
        run_folder(config.output_dir, "test", config=config),
    ):
        pass
    assert not list(tmp_path.iterdir())
