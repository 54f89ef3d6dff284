"""MONAI's discrete models as denoisers, and denoisers under MONAI's inferers: equal numbers, not just equal shapes."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from monai_diffscore import Denoiser, GaussianDenoiser, sample_euler
from monai_diffscore.discrete import DiscretePreconditioning, TimestepModel, TimestepNetwork, level_of_steps

PREDICTIONS = ("epsilon", "v_prediction", "sample")
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def ddim(prediction: str = "epsilon", **options) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, prediction_type=prediction, clip_sample=False, **options)


@pytest.fixture
def unet() -> DiffusionModelUNet:
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        2,
        1,
        1,
        num_res_blocks=1,
        channels=(8, 16),
        attention_levels=(False, True),
        num_head_channels=8,
        norm_num_groups=8,
    )
    for parameter in network.parameters():  # its last layers start as zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


@each_prediction
def test_an_euler_step_equals_monais_ddim_step(unet, prediction):
    """From x_t to x_{t-20}, in MONAI's coordinates and in ours, with the same network."""
    scheduler = ddim(prediction)
    scheduler.set_timesteps(50)
    denoiser = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(scheduler))
    x_t = torch.randn(2, 1, 8, 8)
    sigmas = level_of_steps(scheduler.alphas_cumprod)
    for t in (980, 500, 20):
        previous = t - 20
        with torch.no_grad():
            expected, _ = scheduler.step(unet(x_t, torch.tensor([t, t])), t, x_t)
            x = x_t / scheduler.alphas_cumprod[t].sqrt()
            stepped = sample_euler(denoiser, x, sigmas[[t, previous]])
        torch.testing.assert_close(stepped * scheduler.alphas_cumprod[previous].sqrt(), expected, rtol=1e-4, atol=1e-4)


@each_prediction
def test_a_whole_ddim_sampling_equals_euler_on_the_same_levels(unet, prediction):
    scheduler = ddim(prediction, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    denoiser = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(scheduler))
    start = torch.randn(2, 1, 8, 8)
    steps = [int(t) for t in scheduler.timesteps]
    stride = 1000 // 10
    x = start
    with torch.no_grad():
        for t in steps:
            x, _ = scheduler.step(unet(x, torch.tensor([t, t])), t, x)
        # MONAI steps from t to t - stride, and then continues at its own list of timesteps
        ours = start
        levels = level_of_steps(scheduler.alphas_cumprod)
        for t in steps:
            alpha = scheduler.alphas_cumprod[t].sqrt()
            end = levels[t - stride] if t >= stride else torch.tensor(0.0, dtype=torch.float64)
            after = scheduler.alphas_cumprod[t - stride].sqrt() if t >= stride else 1.0
            ours = sample_euler(denoiser, ours / alpha, torch.stack([levels[t], end])) * after
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@each_prediction
def test_there_and_back_is_the_same_model(unet, prediction):
    scheduler = ddim(prediction)
    denoiser = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(scheduler))
    back = TimestepModel(denoiser, scheduler)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([5, 400, 900])
    torch.testing.assert_close(back(x, t), unet(x, t), rtol=1e-3, atol=2e-3)


@each_prediction
def test_an_exact_denoiser_samples_its_gaussian_under_monais_inferer(prediction):
    """200 DDIM steps of MONAI on our exact denoiser of N(m, 0.3^2): mean and standard deviation come out."""
    mean = torch.linspace(-0.5, 0.5, 16).reshape(1, 4, 4)
    denoiser = GaussianDenoiser(mean, 0.09 * torch.eye(16))
    scheduler = ddim(prediction)
    scheduler.set_timesteps(200)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(512, 1, 4, 4, generator=generator)
    samples = DiffusionInferer(scheduler).sample(noise, TimestepModel(denoiser, scheduler), scheduler, verbose=False)
    # standard error of the mean: 0.3 / sqrt(512) = 0.013, of the standard deviation over all: 0.3 / sqrt(2 * 8192)
    assert (samples.mean(0) - mean).abs().max() < 4 * 0.0133
    assert (samples - mean).std().item() == pytest.approx(0.3, abs=0.01)


def test_monais_ddpm_training_target_is_predicted_at_the_start():
    """Under MONAI's DiffusionInferer: for standard normal data the best prediction of the noise is known."""
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    model = TimestepModel(GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4)), scheduler)
    x0, noise = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    t = torch.tensor([0, 10, 500, 999])
    predicted = DiffusionInferer(scheduler)(x0, model, noise, t)
    noise_scale = (1 - scheduler.alphas_cumprod[t]).sqrt().reshape(-1, 1, 1, 1)
    x_t = (1 - noise_scale**2).sqrt() * x0 + noise_scale * noise
    torch.testing.assert_close(predicted, noise_scale * x_t, rtol=1e-3, atol=1e-4)  # E[n | x_t]


def test_conditions_pass_through_under_monais_names():
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        2, 2, 1, num_res_blocks=1, channels=(8, 16), attention_levels=(False, True), num_head_channels=8,
        norm_num_groups=8, with_conditioning=True, cross_attention_dim=3, num_class_embeds=4,
    )  # fmt: skip
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    scheduler = ddim()
    denoiser = Denoiser(TimestepNetwork(network), DiscretePreconditioning.of(scheduler))
    x = torch.randn(2, 1, 8, 8)
    fields = {"context": torch.randn(2, 1, 3), "class_labels": torch.tensor([0, 3]), "concat": torch.randn(2, 1, 8, 8)}
    first = denoiser(x, 1.0, **fields)
    for name in fields:
        other = fields[name].flip(0)
        assert (denoiser(x, 1.0, **{**fields, name: other}) - first).abs().max() > 1e-5, name


def test_levels_between_and_beyond_the_steps():
    scheduler = ddim()
    preconditioning = DiscretePreconditioning.of(scheduler)
    levels = preconditioning.sigmas
    steps = preconditioning(levels[[0, 7, 999]]).c_noise
    torch.testing.assert_close(steps, torch.tensor([0.0, 7.0, 999.0], dtype=torch.float64))
    between = (levels[7] * levels[8]).sqrt()
    assert preconditioning(between[None]).c_noise.item() == pytest.approx(7.5)
    assert preconditioning(torch.tensor([1e-6, 1e4])).c_noise.tolist() == [0.0, 999.0]


def test_a_spoilt_table_is_refused():
    scheduler = ddim()
    half = scheduler.alphas_cumprod.half()
    with pytest.raises(ValueError, match="must decrease within"):
        DiscretePreconditioning(half)
    with pytest.raises(ValueError, match="among"):
        DiscretePreconditioning(scheduler.alphas_cumprod, "noise")


def test_the_schedule_travels_with_the_weights(unet):
    linear = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(ddim()))
    scaled = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(ddim(schedule="scaled_linear_beta")))
    scaled.load_state_dict(linear.state_dict())
    torch.testing.assert_close(scaled.preconditioning.sigmas, linear.preconditioning.sigmas)  # travels with the weights
