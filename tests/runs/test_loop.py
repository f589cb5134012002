"""The loop: it goes down, it averages, clips and scales, it says what is wrong."""

import subprocess
import sys

import pytest
import torch
from quadratics import problem, settings

from adjointdpm.runs import Callback, OptimizeConfig, optimize
from adjointdpm.variables.latent import project_to_typical


def test_loss_goes_down(tmp_path):
    variable, loss = problem()
    seen = []
    history = optimize(
        {"v": variable}, loss, settings(tmp_path, max_train_steps=60),
        on_step=lambda step, value: seen.append((step, value)),
    )  # fmt: skip
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert len(history) == len(history.seconds) == 60
    assert seen[-1] == (60, history.losses[-1])


def test_projection_holds_after_every_step(tmp_path):
    noise = project_to_typical(torch.randn(2, 4, 3, 3)).requires_grad_()
    radii = []

    def loss(generator):
        radii.append(noise.detach().flatten(1).norm(dim=1))
        return -noise.sum()

    optimize(
        {"noise": noise}, loss, settings(tmp_path),
        project=lambda: noise.copy_(project_to_typical(noise)),
    )  # fmt: skip
    torch.testing.assert_close(torch.stack(radii), torch.full((12, 2), 6.0))


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        optimize(
            {"x": torch.zeros(2, requires_grad=True)}, None,
            OptimizeConfig(resume_from_checkpoint=tmp_path),
        )  # fmt: skip
    with pytest.raises(ValueError, match="nothing to optimise"):
        optimize({}, None, OptimizeConfig())
    with pytest.raises(ValueError, match="x cannot be optimised"):
        optimize({"x": torch.zeros(2)}, None, OptimizeConfig())
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(FloatingPointError, match="at step 1"):
        optimize({"x": x}, lambda g: (x / 0).sum(), settings(tmp_path))


def test_a_quadratic_is_solved(tmp_path):
    """Nothing here knows of diffusion: the minimum of (x - b)' A (x - b) is b."""
    matrix, b = torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([1.0, -2.0])
    x = torch.zeros(2, requires_grad=True)
    config = settings(tmp_path, max_train_steps=300, learning_rate=0.1, lr_scheduler="cosine")
    optimize({"x": x}, lambda generator: (x - b) @ matrix @ (x - b), config)
    torch.testing.assert_close(x.detach(), b, rtol=0, atol=1e-4)


def test_runs_import_nothing_of_diffusion():
    code = "import sys, adjointdpm.runs.loop; print({'diffusers', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def spoilt_after(steps, kind):
    x = torch.ones(2, requires_grad=True)
    calls = []

    def loss(generator):
        calls.append(1)
        total = (x - 3).square().sum()
        if len(calls) <= steps:
            return total
        if kind == "gradient":  # the loss is finite, its gradient is not
            return total + (x - x.detach()).square().sum().sqrt()
        return total / 0

    return x, loss


@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_no_update_is_made_with_what_is_not_finite(tmp_path, kind):
    x, loss = spoilt_after(4, kind)
    seen = []
    config = settings(tmp_path, checkpointing_steps=2)
    with pytest.raises(FloatingPointError, match="at step 5; no update") as error:
        optimize({"x": x}, loss, config, on_step=lambda *_: seen.append(x.detach().clone()))
    assert str(tmp_path / "checkpoint-4") in str(error.value)
    assert "learning_rate (now 0.05)" in str(error.value)
    assert torch.equal(x, seen[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_a_variable_that_the_loss_does_not_use(tmp_path):
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not depend on y"):
        optimize({"x": x, "y": y}, lambda generator: x.sum(), settings(tmp_path))


def test_a_gradient_of_zeros(tmp_path):
    """As that of a metric with steps in it: the variable is used, and no update moves it."""
    x = torch.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="gradient of x is zero in the first update"):
        optimize({"x": x}, lambda generator: (x * 0).sum(), settings(tmp_path, max_train_steps=2))


def pulled(x, targets):
    """Return a loss that pulls x towards one target after another, and how it was called."""
    remaining = iter(targets)
    return lambda generator: (x - next(remaining)).square().sum()


def test_accumulated_gradients_are_the_mean(tmp_path):
    targets = torch.randn(12, 3, dtype=torch.float64)
    one, several = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    config = settings(tmp_path, max_train_steps=4)
    batches = iter(targets.split(3))
    whole = optimize({"x": one}, lambda _: (one - next(batches)).square().sum(1).mean(), config)
    parts = optimize(
        {"x": several},
        pulled(several, targets),
        settings(tmp_path, max_train_steps=4, gradient_accumulation_steps=3),
    )
    torch.testing.assert_close(several, one, rtol=1e-12, atol=0)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-12)


def test_long_gradients_are_clipped_together(tmp_path):
    """Adam hardly sees the length of a gradient, but its second moment keeps it."""
    x, y = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    seen = []

    def remember():
        seen.append((x.grad.clone(), y.grad.clone()))

    def loss(generator):
        return 3 * x.sum() + 4 * y.sum() + 0 * x.square().sum()

    length = 34**0.5
    for limit, factor in ((1.0, 1 / length), (10.0, 1.0), (None, 1.0)):
        config = settings(tmp_path, max_train_steps=1, max_grad_norm=limit)
        optimize({"x": x, "y": y}, loss, config, project=remember)
        torch.testing.assert_close(seen[-1][0], torch.full((2,), 3 * factor))
        torch.testing.assert_close(seen[-1][1], torch.full((1,), 4 * factor))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_mixed_precision(tmp_path, precision, dtype):
    x = torch.ones(4, 4, requires_grad=True)
    seen = []

    def loss(generator):
        product = x @ torch.eye(4)
        seen.append(product.dtype)
        return product.float().square().mean()

    history = optimize({"x": x}, loss, settings(tmp_path, mixed_precision=precision))
    assert set(seen) == {dtype}
    assert x.dtype == torch.float32
    assert history.losses[-1] < 0.5 * history.losses[0]


def test_small_gradients_of_float16_are_not_lost(tmp_path):
    """A gradient of 1e-9 is zero in float16, and Adam would not move."""
    x = torch.ones(4, 4, requires_grad=True)
    config = settings(tmp_path, mixed_precision="fp16", adam_epsilon=1e-12)
    optimize({"x": x}, lambda _: 1e-9 * (x @ torch.eye(4)).float().sum(), config)
    assert (x < 0.6).all()


def test_an_overflow_of_float16_costs_an_update_and_not_the_run(tmp_path):
    x = torch.ones(4, 4, requires_grad=True)
    config = settings(tmp_path, mixed_precision="fp16", max_train_steps=20)
    history = optimize({"x": x}, lambda _: 30 * (x @ torch.eye(4)).float().square().sum(), config)
    assert history.losses[0] == history.losses[1]  # left out
    assert history.losses[-1] < 0.5 * history.losses[0]
    with pytest.raises(FloatingPointError, match="gradient of x is not finite"):
        optimize({"x": x}, lambda _: (x - x.detach()).square().sum().sqrt(), config)


def test_callbacks_hear_of_steps_and_checkpoints(tmp_path):
    class Listener(Callback):
        def __init__(self):
            self.heard = []

        def on_start(self, steps, tracker):
            self.heard.append(f"start {steps}")

        def on_step(self, step):
            assert step.grad_norm > 0
            self.heard.append(f"step {step.number}")

        def on_save(self, folder):
            (folder / "more.txt").write_text("x")
            self.heard.append("save")

    variable, loss = problem()
    listener = Listener()
    config = settings(tmp_path, max_train_steps=3, checkpointing_steps=2)
    optimize({"v": variable}, loss, config, callbacks=[listener])
    assert listener.heard == ["start 0", "step 1", "step 2", "save", "step 3"]
    assert (tmp_path / "checkpoint-2" / "more.txt").read_text() == "x"
