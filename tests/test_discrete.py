"""MONAI's discrete models as denoisers, and denoisers under MONAI's inferers: equal numbers, not just equal shapes."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler

from monai_diffscore import Denoiser, GaussianDenoiser, sample_euler
from monai_diffscore.discrete import (
    DiscretePreconditioning,
    RFlowPreconditioning,
    TimestepModel,
    TimestepNetwork,
    level_of_steps,
)
from monai_diffscore.tensors import per_sample

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
def test_the_round_trip_gives_the_same_model(unet, prediction):
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
    with pytest.raises(ValueError, match="expects a prediction of"):
        DiscretePreconditioning(scheduler.alphas_cumprod, "noise")


def test_the_schedule_travels_with_the_weights(unet):
    linear = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(ddim()))
    scaled = Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(ddim(schedule="scaled_linear_beta")))
    scaled.load_state_dict(linear.state_dict())
    torch.testing.assert_close(scaled.preconditioning.sigmas, linear.preconditioning.sigmas)  # travels with the weights


@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("timesteps", [1000, 250])
def test_an_euler_step_equals_a_step_of_monais_rectified_flow(unet, steps, timesteps):
    """From each of the scheduler's own times below T, with the same network: its velocity has the other sign."""
    scheduler = RFlowScheduler(num_train_timesteps=timesteps)
    scheduler.set_timesteps(steps)
    denoiser = Denoiser(TimestepNetwork(unet), RFlowPreconditioning.of(scheduler))
    times = [*[int(t) for t in scheduler.timesteps][1:], 0]
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for now, following in itertools.pairwise(times):
        tau, after = now / timesteps, following / timesteps
        with torch.no_grad():
            expected, clean = scheduler.step(unet(x, torch.tensor([now, now])), now, x, following)
            levels = [tau / (1 - tau), after / (1 - after)]
            stepped = sample_euler(denoiser, x / (1 - tau), levels) * (1 - after)
            torch.testing.assert_close(denoiser(x / (1 - tau), levels[0]), clean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-4)
        x = expected


def test_the_target_of_monais_rectified_flow_has_the_sign_that_is_taken():
    """The exact network of N(0, 1) for the target x0 - n at MONAI's own noisy images gives the exact denoiser."""
    scheduler, sigma = RFlowScheduler(), torch.tensor([0.1, 1.0, 9.0])
    tau = sigma / (1 + sigma)
    x0, n = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noisy = scheduler.add_noise(x0, n, 1000 * tau)
    torch.testing.assert_close(noisy, per_sample(1 - tau, x0) * (x0 + per_sample(sigma, x0) * n))

    class Velocity(torch.nn.Module):  # E[x0 - n | x_tau] = (1 - 2 tau) / ((1 - tau)^2 + tau^2) x_tau
        def forward(self, x, timesteps):
            share = timesteps / 1000
            return per_sample((1 - 2 * share) / ((1 - share) ** 2 + share**2), x) * x

    denoiser = Denoiser(TimestepNetwork(Velocity()), RFlowPreconditioning())
    x = x0 + per_sample(sigma, x0) * n
    torch.testing.assert_close(denoiser(x, sigma), x / per_sample(1 + sigma**2, x), rtol=1e-4, atol=1e-5)


def diffusers_network(name: str):
    diffusers = pytest.importorskip("diffusers", reason="of the benchmark extra")
    torch.manual_seed(0)
    if name == "unet":
        blocks = {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        model = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
            norm_num_groups=4, **blocks,
        )  # fmt: skip
        return diffusers, model.eval(), {}
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=1,
    )  # fmt: skip
    return diffusers, model.eval(), {"class_labels": torch.tensor([3, 5])}


@pytest.mark.parametrize("name", ["unet", "dit"])
@each_prediction
def test_an_euler_step_equals_diffusers_ddim_step(name, prediction):
    diffusers, model, condition = diffusers_network(name)
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(50)
    network = TimestepNetwork(model, learned_variance=name == "dit")
    denoiser = Denoiser(network, DiscretePreconditioning.of(scheduler))
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    alphas, sigmas = scheduler.alphas_cumprod, level_of_steps(scheduler.alphas_cumprod)
    for t in (980, 500, 20):
        with torch.no_grad():
            output = model(x_t, torch.tensor([t, t]), **condition).sample[:, :1]
            expected = scheduler.step(output, t, x_t).prev_sample
            bound = partial(denoiser, **condition)
            stepped = sample_euler(bound, x_t / alphas[t].sqrt(), sigmas[[t, t - 20]]) * alphas[t - 20].sqrt()
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-4)
    assert output.abs().max() > 0.01  # the network says something


def test_a_learned_variance_that_is_not_announced_is_refused():
    _, model, condition = diffusers_network("dit")
    denoiser = Denoiser(TimestepNetwork(model), DiscretePreconditioning.of(ddim()))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\), got \(2, 2, 8, 8\)"):
        denoiser(torch.zeros(2, 1, 8, 8), 1.0, **condition)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [10, 1000])
def test_zero_terminal_snr_is_refused_and_the_remedy_works(steps, prediction):
    alphas = torch.cos(torch.linspace(0.1, torch.pi / 2, steps, dtype=torch.float64)).square()
    alphas[-1] = 0
    with pytest.raises(ValueError, match=r"zero terminal SNR.*alphas_cumprod\[:-1\].*largest level") as caught:
        DiscretePreconditioning(alphas, prediction)
    sigmas = DiscretePreconditioning(alphas[:-1], prediction).sigmas
    assert f"{sigmas[-1]:.6g}" in str(caught.value)
    torch.testing.assert_close(sigmas, ((1 - alphas) / alphas).sqrt()[:-1])


def test_the_zero_terminal_snr_of_diffusers_is_refused():
    diffusers = pytest.importorskip("diffusers", reason="of the benchmark extra")
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        DiscretePreconditioning.of(scheduler)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, "FlowMatchEulerDiscreteScheduler", "DDPMScheduler"])
def test_other_schedulers_than_monais_flow_are_refused(kind):
    if isinstance(kind, str):
        kind = getattr(pytest.importorskip("diffusers", reason="of the benchmark extra"), kind)
    with pytest.raises(
        TypeError, match=f"expects MONAI's RFlowScheduler, got {kind.__name__}.*DiscretePreconditioning"
    ):
        RFlowPreconditioning.of(kind())


@pytest.mark.parametrize("options", [{}, {"num_train_timesteps": 250}, {"use_timestep_transform": True}])
def test_a_flow_is_no_schedule_of_ddpm(options):
    with pytest.raises(TypeError, match=r"got RFlowScheduler\. Use RFlowPreconditioning\.of"):
        DiscretePreconditioning.of(RFlowScheduler(**options))
