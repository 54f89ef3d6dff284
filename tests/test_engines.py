"""Engines, handlers and metrics on small exact problems."""

from __future__ import annotations

import itertools
import json
import math
import signal
from functools import partial

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from mlflow.tracking import MlflowClient
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import IterationEvents, SupervisedEvaluator
from monai.handlers import CheckpointLoader
from torch import nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.engines import PrepareScoreBatch, ScoreTrainer
from monai_diffscore.errors import DataError
from monai_diffscore.handlers import (
    ClipGradients,
    PowerEMA,
    Progress,
    ResumableCheckpoint,
    SampleGallery,
    SaveRows,
    TimeLimit,
    Tracking,
    ValidationLog,
    epochs_of_best,
)
from monai_diffscore.handlers.ema import power_function_exponent
from monai_diffscore.inferers import DenoisingErrorInferer, LikelihoodInferer, LossInferer, SamplingInferer
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise, edm_weight
from monai_diffscore.metrics import DenoisingError, PredictionMean, level_errors, lower_is_better
from monai_diffscore.networks import ScoreMLP
from monai_diffscore.sampling import karras_sigmas, log_uniform_sigmas, sample_ancestral

SIGMAS = (0.1, 0.5, 2.0)


def rows(count: int = 64) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [{"image": torch.randn(2, generator=g) * 0.5} for _ in range(count)]


class Training:
    """A small training on rows of two columns, as a bundle puts it together."""

    def __init__(self, folder, epochs=2, handlers=(), loss=None, data=None, fail_at=None, error=None, lr=1e-3):
        torch.manual_seed(0)
        self.network = Denoiser(ScoreMLP(2, 16, 1), EDMPreconditioning())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr)
        self.ema = PowerEMA(self.network)
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(rows(16)), batch_size=8),
            network=self.ema.network,
            inferer=DenoisingErrorInferer(SIGMAS),
            prepare_batch=PrepareScoreBatch(),
            key_val_metric={"denoising_error": DenoisingError(SIGMAS, 0.5)},
            additional_metrics=level_errors(SIGMAS),
            metric_cmp_fn=lower_is_better,
            decollate=False,
        )
        self.tracking = Tracking(
            f"sqlite:///{folder}/mlruns.db", folder, validator=self.evaluator, network=self.network, every=4,
            facts={"seed": 0},
        )  # fmt: skip
        self.checkpoint = ResumableCheckpoint(
            folder / "checkpoints",
            {"network": self.network, "optimizer": self.optimizer, "ema": self.ema},
            weights=(self.ema.network, folder / "models/model.pt"),
            statistics={"sigma_data": 0.5},
            configuration={
                "learning_rate": lr,
                "noise": LogNormalNoise(),
                "weight": partial(edm_weight, sigma_data=0.5),
            },
            save_every=5,
        )
        self.trainer = ScoreTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=DataLoader(Dataset(data or rows()), batch_size=16),
            network=self.network,
            optimizer=self.optimizer,
            inferer=LossInferer(loss or DenoisingLoss(LogNormalNoise())),
            train_handlers=[
                self.ema,
                self.checkpoint,
                ValidationLog(folder / "validation.jsonl", self.evaluator),
                self.tracking,
                Progress(),
                *handlers,
            ],
        )
        if fail_at is not None:

            def fail(_engine):
                if error is None:
                    signal.raise_signal(signal.SIGINT)  # Ctrl-C
                else:
                    raise error

            self.trainer.add_event_handler(Events.ITERATION_STARTED(once=fail_at), fail)

    def run_record(self):
        client = MlflowClient(self.tracking.uri)
        return client.get_run(self.tracking.run_id), client


def test_a_checkpoint_that_is_taken_for_weights_holds_the_average(tmp_path, caplog):
    """By MONAI's loader and by hand; the training continues from its own network, and prints progress and paths."""
    training = Training(tmp_path, epochs=2)
    training.trainer.run()
    (*_, newest) = training.checkpoint.files()
    state = torch.load(newest, weights_only=True)
    raw, average = training.network.state_dict(), training.ema.network.state_dict()
    name = next(name for name, value in raw.items() if value.ndim > 1)
    assert not torch.equal(raw[name], average[name])
    assert all(torch.equal(state["network"][key], value) for key, value in average.items() if torch.is_tensor(value))
    taken = Denoiser(ScoreMLP(2, 16, 1), EDMPreconditioning())
    evaluator = Engine(lambda *_: None)
    CheckpointLoader(str(newest), {"network": taken}, map_location="cpu").attach(evaluator)
    evaluator.run([0])
    assert torch.equal(taken.state_dict()[name], average[name])
    with caplog.at_level("INFO"):
        again = Training(tmp_path, epochs=2)
        again.trainer.run()
    assert torch.equal(again.network.state_dict()[name], raw[name])
    assert "already done: 2 of 2 epochs" in caplog.text
    path = f"{tmp_path}/models/model.pt"
    assert f"weights: {path}, for sampling: --checkpoint {path}; checkpoints: {tmp_path}" in caplog.text


def test_training_learns_validates_saves_and_is_tracked(tmp_path):
    training = Training(tmp_path, epochs=40)
    before = training.evaluator.run() or training.evaluator.state.metrics["denoising_error"]
    training.trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert lines[-1]["iteration"] == 160
    assert lines[-1]["denoising_error"] < before
    weights = torch.load(tmp_path / "models/model.pt", weights_only=True)
    training.network.load_state_dict(weights)  # the layout of network_def
    assert [f.name for f in training.checkpoint.files()] == ["iteration_00000155.pt", "iteration_00000160.pt"]
    run, client = training.run_record()
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert int(run.data.params["parameter_count"]) == sum(p.numel() for p in training.network.parameters())
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 160
    assert run.data.metrics["denoising_error"] == pytest.approx(lines[-1]["denoising_error"])


def test_gradient_accumulation_is_monais(tmp_path):
    """Two batches accumulated are one step: the optimizer is called half as often."""
    training = Training(tmp_path, epochs=1)
    training.trainer.accumulation_steps = 2
    steps = []
    training.optimizer.register_step_post_hook(lambda *a: steps.append(1))
    training.trainer.run()
    assert len(steps) == 2


@pytest.mark.parametrize(("error", "status"), [(None, "KILLED"), (RuntimeError("broken"), "FAILED")])
def test_interrupted_runs_are_closed_and_the_error_goes_on(tmp_path, error, status):
    training = Training(tmp_path, fail_at=7, error=error)
    with pytest.raises(KeyboardInterrupt if error is None else RuntimeError):
        training.trainer.run()
    run, client = training.run_record()
    assert run.info.status == status
    assert len(client.get_metric_history(run.info.run_id, "loss")) == (7 if error is None else 6)
    saved = [f.name for f in training.checkpoint.files()]
    # Ctrl-C saves where it was; after an error the state may be at fault, and the regular checkpoint stays the newest
    assert saved[-1] == ("iteration_00000007.pt" if status == "KILLED" else "iteration_00000005.pt")


def test_a_training_on_more_rows_takes_the_iterations_of_the_best_validation(tmp_path):
    path = tmp_path / "validation.jsonl"
    earlier, last = ((0, 0.9), (68, 0.1)), ((0, math.nan), (34, 0.5), (51, 0.6), (17, 0.7))  # continued from 17 on
    lines = [{"iteration": at, "denoising_error": error} for at, error in (*earlier, *last)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [epochs_of_best(path, length) for length in (17, 2, 1000)] == [2, 17, 1]
    for missing in (tmp_path / "none.jsonl", path):
        with pytest.raises(DataError, match=r"key 'validation_log'.*Train with held-out rows first"):
            epochs_of_best(missing, 17, metric="denoising_error" if missing != path else "loss")


def test_a_stopped_training_continues_its_iterations_and_its_mlflow_run(tmp_path):
    stopped = Training(tmp_path, epochs=4, fail_at=6)
    with pytest.raises(KeyboardInterrupt):
        stopped.trainer.run()
    continued = Training(tmp_path, epochs=4)
    seen = []
    continued.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.iteration))
    continued.trainer.run()
    assert seen == list(range(7, 17))
    assert continued.ema.updates == 16
    run, client = continued.run_record()
    assert run.info.run_id == stopped.tracking.run_id
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 17))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path, fail_at=6).trainer.run()
    statistics = (tmp_path / "models/data_statistics.json").read_bytes()
    with pytest.raises(ValueError, match="another --output_dir"):
        Training(tmp_path, data=rows(32)).trainer.run()
    with pytest.raises(ValueError, match=r"learning_rate: 0.001 then, 0.0001 now.*another --output_dir"):
        Training(tmp_path, lr=1e-4).trainer.run()
    assert (tmp_path / "models/data_statistics.json").read_bytes() == statistics
    other = Training(tmp_path)
    other.checkpoint.objects["network"] = Denoiser(ScoreMLP(2, 8, 1), EDMPreconditioning())
    with pytest.raises(ValueError, match="does not fit 'network'"):
        other.trainer.run()


def test_a_failing_write_leaves_the_old_checkpoint_whole(tmp_path):
    from monai_diffscore.handlers.checkpoint import save_atomically

    path = tmp_path / "state.pt"
    save_atomically({"a": torch.ones(2)}, path)
    with pytest.raises(AttributeError, match="pickle"):
        save_atomically({"a": torch.zeros(2), "b": lambda: None}, path)  # a lambda cannot be pickled
    torch.testing.assert_close(torch.load(path, weights_only=True)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def after_backward(training, iteration, action):
    """Does something between backward and step of one iteration."""

    def act(engine):
        if engine.state.iteration == iteration:
            action()

    training.trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, act)


def test_ctrl_c_waits_for_the_end_of_the_iteration(tmp_path):
    """Between backward and step the weights, the optimizer and the averages do not belong together."""
    training = Training(tmp_path, epochs=4)
    after_backward(training, 6, lambda: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training.trainer.run()
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(training.checkpoint.files()[-1], weights_only=True)
    steps = {int(value["step"]) for value in state["optimizer"]["state"].values()}
    assert (state["engine"]["iteration"], state["ema"]["updates"], steps) == (6, 6, {6})


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(tmp_path):
    training = Training(tmp_path, epochs=4)

    def press_twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    after_backward(training, 7, press_twice)
    with pytest.raises(KeyboardInterrupt):
        training.trainer.run()
    assert training.checkpoint.files()[-1].name == "iteration_00000005.pt"
    assert training.run_record()[0].info.status == "KILLED"


def test_a_tracker_that_fails_never_ends_the_training(tmp_path, monkeypatch):
    training = Training(tmp_path, epochs=4)
    deliver, refused = MlflowClient.log_batch, []

    def refuse_for_a_while(self, *arguments, **keywords):
        if "metrics" in keywords and len(refused) < 2:
            refused.append(1)
            raise ConnectionError("database is locked")
        return deliver(self, *arguments, **keywords)

    monkeypatch.setattr(MlflowClient, "log_batch", refuse_for_a_while)
    training.trainer.run()
    assert len(refused) == 2
    run, client = training.run_record()
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 17))  # none is lost


def test_runs_of_equal_names_in_two_folders_stay_two_runs(tmp_path):
    ids = []
    for name in "ab":
        training = Training(tmp_path / name)
        training.tracking.uri, training.tracking.run_name = f"sqlite:///{tmp_path}/shared.db", "baseline"
        training.trainer.run()
        ids.append(training.tracking.run_id)
    assert ids[0] != ids[1]


def test_gradients_that_are_not_finite_stop_before_the_step(tmp_path):
    training = Training(tmp_path, epochs=4)
    ClipGradients(training.optimizer).attach(training.trainer)
    parameter = training.network.network.output.weight

    def poison():
        parameter.grad[0, 0] = torch.inf

    after_backward(training, 7, poison)
    with pytest.raises(FloatingPointError, match="finite gradients, got a norm of inf"):
        training.trainer.run()
    assert all(p.isfinite().all() for p in training.network.parameters())
    assert training.checkpoint.files()[-1].name == "iteration_00000005.pt"


@pytest.mark.parametrize("where", ["loss", "gradients"])
def test_late_checks_name_the_right_iteration_and_save_nothing(where, tmp_path):
    """As on a device that the program does not wait for: 16 numbers together, but those before a checkpoint at once."""
    training = Training(tmp_path, epochs=8)  # 4 iterations an epoch, checkpoints at 5, 10, ...
    clip = ClipGradients(training.optimizer)
    clip.attach(training.trainer)
    for watch in training.trainer.watches:
        watch.every = 16
    parameter = training.network.network.output.weight

    def poison():
        (parameter if where == "loss" else parameter.grad).data.fill_(torch.nan)

    after_backward(training, 9 if where == "gradients" else 8, poison)
    expected = r"finite loss.*at sigma \[.*iteration 9\)" if where == "loss" else r"norm of nan.*iteration 9\)"
    with pytest.raises(FloatingPointError, match=expected):
        training.trainer.run()
    assert training.trainer.state.iteration == 10  # before it was saved
    assert not parameter.isfinite().all()  # it was too late for these weights,
    newest = training.checkpoint.files()[-1]  # not for those
    assert newest.name == "iteration_00000005.pt"
    assert training.run_record()[0].info.status == "FAILED"


class SeveralLosses(torch.nn.Module):
    """The mean of several denoising losses; only the last sees numbers that are not finite."""

    def __init__(self, count):
        super().__init__()
        self.parts = torch.nn.ModuleList(DenoisingLoss(LogNormalNoise()) for _ in range(count))
        self.calls = 0

    def forward(self, network, x0, **condition):
        self.calls += 1
        losses = [part(network, x0, **condition) for part in self.parts[:-1]]
        last = torch.full_like(x0, torch.nan) if self.calls == 6 else x0
        return torch.stack([*losses, self.parts[-1](network, last, **condition)]).mean(0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_trainer_settles_every_loss_that_its_objective_holds(count, tmp_path):
    loss = SeveralLosses(count)
    training = Training(tmp_path, epochs=8, loss=loss)
    watches = [part.watch for part in loss.parts]
    assert training.trainer.watches[:count] == watches
    for watch in watches:
        watch.every = 100  # late: the end of the epoch settles them
    with pytest.raises(FloatingPointError, match=r"finite loss.*iteration 6\)"):
        training.trainer.run()
    assert training.trainer.state.iteration == 8


def test_a_function_is_a_loss_without_checks():
    assert LossInferer(lambda network, x0: x0.square().mean(1)).watches == []


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_sees_unscaled_gradients_under_a_grad_scaler(fused):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
    clip = ClipGradients(optimizer, max_norm=0.1)
    clip.attach(None)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(3.0 * weight.sum()).backward()
    scaler.step(optimizer)
    assert clip.norm.item() == pytest.approx(3.0)
    assert weight.item() == pytest.approx(-0.1, rel=1e-4)


def test_data_of_less_than_one_batch_is_refused(tmp_path):
    training = Training(tmp_path)
    training.trainer.state.epoch_length = 0
    with pytest.raises(DataError, match="at least one whole batch"):
        training.trainer.run()


def test_time_limit_ends_in_an_orderly_way(tmp_path):
    training = Training(tmp_path, epochs=100_000, handlers=[TimeLimit(1.0)])
    training.trainer.run()
    assert 0 < training.trainer.state.iteration < 400_000
    assert training.run_record()[0].info.status == "FINISHED"
    assert (tmp_path / "validation.jsonl").is_file()
    with pytest.raises(ValueError, match="positive"):
        TimeLimit(0)


def test_a_diverged_loss_stops_the_training_with_its_noise_level(tmp_path):
    data = rows()
    data[3]["image"][0] = torch.inf
    training = Training(tmp_path, data=data)
    with pytest.raises(FloatingPointError, match="at sigma"):
        training.trainer.run()
    assert training.run_record()[0].info.status == "FAILED"


def test_clipped_steps_have_the_largest_norm_over_accumulated_gradients(tmp_path):
    """Plain SGD moves by lr times the clipped gradient; two accumulated batches are one clipped step."""
    training = Training(tmp_path, epochs=1)
    sgd = torch.optim.SGD(training.network.parameters(), lr=1.0)
    training.trainer.optimizer, training.trainer.accumulation_steps = sgd, 2
    clip = ClipGradients(sgd, max_norm=0.01)
    clip.attach(training.trainer)
    steps, weights = [], [p.detach().clone() for p in training.network.parameters()]

    def measure(*_):
        moved = torch.cat([(p - q).flatten() for p, q in zip(training.network.parameters(), weights, strict=True)])
        steps.append(moved.norm().item())
        weights[:] = [p.detach().clone() for p in training.network.parameters()]

    sgd.register_step_post_hook(measure)
    training.trainer.run()
    assert clip.norm > 0.01
    assert steps == pytest.approx([0.01, 0.01], rel=1e-3)
    with pytest.raises(ValueError, match="positive"):
        ClipGradients(sgd, 0.0)


# ---- EMA ----


@pytest.mark.parametrize("relative_length", [0.05, 0.10, 0.15])
def test_power_function_has_the_relative_length(relative_length):
    gamma = power_function_exponent(relative_length)
    assert ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5 == pytest.approx(relative_length)
    with pytest.raises(ValueError, match="between"):
        power_function_exponent(0.3)


def test_ema_is_the_power_weighted_mean_of_the_weights():
    """theta_hat_T = sum_t theta_t t^gamma-like weights; here by multiplying out the recursion."""
    network = nn.Linear(1, 1, bias=False)
    ema = PowerEMA(network, 0.1)
    values = torch.arange(1.0, 51.0)
    for value in values:
        nn.init.constant_(network.weight, value.item())
        ema.update()
    betas = (1 - 1 / torch.arange(1.0, 51.0)) ** (ema.exponent + 1)
    weights = torch.stack([(1 - betas[t]) * betas[t + 1 :].prod() for t in range(50)])
    assert ema.network.weight.item() == pytest.approx((weights * values).sum().item(), rel=1e-4)
    # the profile's spread relative to the training time is what was asked for
    mean = (weights * values).sum()
    assert ((weights * (values - mean) ** 2).sum().sqrt() / 50).item() == pytest.approx(0.1, abs=0.02)


def test_ema_copies_integer_buffers():
    network = nn.BatchNorm1d(2)
    ema = PowerEMA(network)
    network(torch.randn(4, 2))
    ema.update()
    assert ema.network.num_batches_tracked.item() == 1


# ---- inferers ----


def test_samples_are_the_same_whatever_the_batch_size(mixture_2d):
    inferer = SamplingInferer(sample_ancestral, karras_sigmas(8), seed=3, progress=False)

    def draw(numbers):
        return inferer(torch.empty(len(numbers), 2), mixture_2d, seed=torch.tensor(numbers))

    torch.testing.assert_close(draw([0, 1, 2, 3])[2:], draw([2, 3]), rtol=0, atol=1e-6)
    assert (draw([0]) - draw([1])).abs().max() > 1e-3
    other = SamplingInferer(sample_ancestral, karras_sigmas(8), seed=4, progress=False)
    assert (other(torch.empty(1, 2), mixture_2d, seed=torch.tensor([0])) - draw([1])).abs().max() > 1e-3


def test_ctrl_c_while_sampling_keeps_the_current_estimate_and_then_stops(mixture_2d):
    seen = []

    def press(step):
        seen.append(step)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    inferer = SamplingInferer(sigmas=karras_sigmas(9), progress=False, callback=press)
    sample = inferer(torch.zeros(2, 2), mixture_2d)
    assert len(seen) == 3
    torch.testing.assert_close(sample, seen[-1].denoised)
    with pytest.raises(KeyboardInterrupt):
        inferer(torch.zeros(2, 2), mixture_2d)


@pytest.mark.parametrize(("pressed_at", "kept"), [(0, 0), (7, 0), (8, 1), (9, 1), (17, 2), (23, 2), (24, 3)])
def test_ctrl_c_keeps_the_draws_that_are_finished(mixture_2d, pressed_at, kept):
    """Of three draws in eight steps each, whole ones alone are kept, equal to those of an undisturbed run."""
    seen = []

    def press(step):
        seen.append(step)
        if len(seen) == pressed_at:
            signal.raise_signal(signal.SIGINT)

    def draw(inferer):
        return inferer.draws(mixture_2d, torch.zeros(2, 2), [5, 9], 3)

    undisturbed = draw(SamplingInferer(sigmas=karras_sigmas(8), progress=False))
    inferer = SamplingInferer(sigmas=karras_sigmas(8), progress=False, callback=press)
    if pressed_at == 0:
        inferer.stopped = True  # in an earlier batch
    if kept:
        assert torch.equal(draw(inferer), undisturbed[:, :kept])
    else:
        with pytest.raises(KeyboardInterrupt):
            draw(inferer)
    assert len(seen) == pressed_at
    assert inferer.finished_draws == kept
    with pytest.raises(KeyboardInterrupt):
        draw(inferer)


@pytest.mark.parametrize("ending", ["ctrl_c", "error", "none"])
def test_every_saving_handler_writes_the_samples_before_ctrl_c(mixture_2d, tmp_path, ending):
    """Three batches of two in eight steps each; it ends in the second batch."""
    steps = itertools.count(1)

    def end(_step):
        if next(steps) == 12 and ending != "none":
            if ending == "error":
                raise RuntimeError("a fault")
            signal.raise_signal(signal.SIGINT)

    files = [tmp_path / "first.npy", tmp_path / "second.npy"]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": torch.zeros(2), "seed": i} for i in range(6)]), batch_size=2),
        network=mixture_2d,
        inferer=SamplingInferer(sigmas=karras_sigmas(8), progress=False, callback=end),
        prepare_batch=PrepareScoreBatch(["seed"]),
        val_handlers=[SaveRows(file) for file in files],
    )
    if ending == "none":
        evaluator.run()
    else:
        with pytest.raises({"ctrl_c": KeyboardInterrupt, "error": RuntimeError}[ending]):
            evaluator.run()
    rows = {"ctrl_c": 4, "none": 6}.get(ending)
    assert [len(np.load(file)) if file.is_file() else None for file in files] == [rows, rows]


def test_a_callback_stops_one_sampling_and_a_wrapped_network_is_sampled(mixture_2d):
    def first(step):
        return step.number == 0

    plain, doubled = (SamplingInferer(progress=False, callback=first, wrap=wrap) for wrap in (None, Twice))
    once = plain(torch.zeros(2, 2), mixture_2d)
    torch.testing.assert_close(plain(torch.zeros(2, 2), mixture_2d), once)  # the next batch goes on as ever
    torch.testing.assert_close(doubled(torch.zeros(2, 2), mixture_2d), 2 * once)


class Twice(nn.Module):
    """Twice the denoiser."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, sigma):
        return 2 * self.network(x, sigma)


def test_samples_keep_the_metadata_of_the_request(mixture_64d):
    request = MetaTensor(torch.empty(2, 1, 4, 4, 4), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    samples = SamplingInferer(sigmas=karras_sigmas(2), progress=False)(request, mixture_64d)
    assert isinstance(samples, MetaTensor)
    torch.testing.assert_close(samples.affine, request.affine)


def test_denoising_error_is_the_bayes_error_for_the_exact_denoiser():
    """Of N(0, s^2 I): s^2 sigma^2 / (s^2 + sigma^2) in each dimension, and its EDM-weighted mean is 1."""
    from monai_diffscore.denoiser import GaussianDenoiser

    denoiser = GaussianDenoiser(torch.zeros(4), 0.25 * torch.eye(4))
    x0 = denoiser.sample(20_000, torch.Generator().manual_seed(0)).float()
    errors = DenoisingErrorInferer(SIGMAS)(x0, denoiser)
    sigma = torch.tensor(SIGMAS)
    torch.testing.assert_close(errors.mean(0), 0.25 * sigma**2 / (0.25 + sigma**2), rtol=0.03, atol=0)
    metric = DenoisingError(SIGMAS, 0.5)
    metric.update(errors)
    assert metric.compute() == pytest.approx(1.0, rel=0.03)
    torch.testing.assert_close(errors, DenoisingErrorInferer(SIGMAS)(x0, denoiser), rtol=0, atol=0)
    with pytest.raises(ValueError, match="> 0"):
        DenoisingErrorInferer([0.0])


def test_likelihood_inferer_reports_nats_per_dimension(mixture_2d):
    points = mixture_2d.sample(8, torch.Generator().manual_seed(0))
    sigmas = log_uniform_sigmas(64, 1e-3, 400.0)
    exact = LikelihoodInferer(sigmas, probes=0, progress=False)(points, mixture_2d)
    torch.testing.assert_close(exact[:, 0], mixture_2d.log_prob(points) / 2, rtol=0, atol=2e-3)
    guessed = LikelihoodInferer(sigmas, probes=4, progress=False)(points, mixture_2d)
    assert guessed[:, 1].mean() > 0  # two dimensions leave two values: a single spread may be 0


def test_metrics_average_over_samples_not_batches():
    metric = PredictionMean(1, scale=-1.0)
    metric.update(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    metric.update(torch.tensor([[0.0, 6.0]]))
    assert metric.compute() == -3.0
    empty = PredictionMean()
    with pytest.raises(ValueError, match="empty"):
        empty.compute()


def test_metrics_read_both_forms_of_an_engine_output():
    for output in ({"pred": torch.tensor([1.0, 3.0])}, [{"pred": torch.tensor(1.0)}, {"pred": torch.tensor(3.0)}]):
        engine = Engine(lambda e, b, output=output: output)
        PredictionMean().attach(engine, "mean")
        assert engine.run([0]).metrics["mean"] == 2.0


def test_batches_without_a_declared_key_are_refused():
    with pytest.raises(DataError, match=r"key 'age_years'.*got \['image'\]"):
        PrepareScoreBatch(["age_years"])({"image": torch.zeros(1, 2)})


def test_conditions_go_by_name():
    image, _, args, condition = PrepareScoreBatch(["age_years"])(
        {"image": torch.zeros(2, 2), "age_years": [40.0, 50.0], "other": "x"}
    )
    assert args == ()
    assert image.shape == (2, 2)
    torch.testing.assert_close(condition, {"age_years": torch.tensor([40.0, 50.0])})
    _, _, _, condition = PrepareScoreBatch(["mask"])({"image": torch.zeros(1, 2), "mask": MetaTensor(torch.ones(1, 2))})
    assert type(condition["mask"]) is torch.Tensor


# ---- pictures ----


def test_sample_gallery_draws_while_training_and_logs_the_pictures(tmp_path):
    training = Training(tmp_path)
    inferer = SamplingInferer(sigmas=karras_sigmas(3), progress=False)
    gallery = SampleGallery(
        training.ema.network, inferer, (2,), tmp_path / "gallery", count=8, every=4, tracking=training.tracking
    )
    gallery.attach(training.trainer)
    training.trainer.run()
    assert sorted(f.name for f in (tmp_path / "gallery").iterdir()) == ["samples_00000004.png", "samples_00000008.png"]
    run, client = training.run_record()
    names = [f.path for f in client.list_artifacts(run.info.run_id, "samples")]
    assert names[0] == "samples/samples_00000004.png"
