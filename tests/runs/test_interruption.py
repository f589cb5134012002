"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written, and the way on told."""

import os
import signal

import pytest
import torch
from quadratics import problem, settings

from adjointdpm.runs import StoppedError, optimize


def interrupting(loss, number, at, times=1):
    """Return a loss in which a signal arrives."""
    calls = []

    def interrupted(generator):
        calls.append(1)
        if len(calls) == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return loss(generator)

    return interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, number, capfd):
    variable, loss = problem()
    whole = optimize({"v": variable}, loss, settings(tmp_path / "whole"))
    before = signal.getsignal(number)

    first, loss = problem()
    with pytest.raises(StoppedError, match=r"step 7, and saved .*checkpoint-7; .*latest goes"):
        optimize({"v": first}, interrupting(loss, number, at=7), settings(tmp_path))
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(number) is before

    second, loss = problem()
    history = optimize({"v": second}, loss, settings(tmp_path, resume_from_checkpoint="latest"))
    assert history.losses == whole.losses
    assert torch.equal(second, variable)


def test_the_second_signal_does_not_wait(tmp_path):
    variable, loss = problem()
    with pytest.raises(KeyboardInterrupt, match="within a step"):
        optimize({"v": variable}, interrupting(loss, signal.SIGINT, 7, 2), settings(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_a_folder_signals_do_what_they_do(tmp_path):
    variable, loss = problem()
    config = settings(tmp_path, output_dir=None)
    with pytest.raises(KeyboardInterrupt) as stop:
        optimize({"v": variable}, interrupting(loss, signal.SIGINT, 3), config)
    assert not isinstance(stop.value, StoppedError)


def test_a_signal_after_the_last_step_is_not_lost(tmp_path):
    variable, loss = problem()

    def signal_at_last(step, value):
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="after the last step"):
        optimize({"v": variable}, loss, settings(tmp_path), on_step=signal_at_last)
