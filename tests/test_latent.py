"""A latent image of MONAI's autoencoder stands where the scales of a pyramid stand."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL

from monai_diffscore import (
    Denoiser,
    DenoisingLoss,
    EDMPreconditioning,
    JointScales,
    Latent,
    LogNormalNoise,
    MultiScale,
    MultiScaleLoss,
    ScoreUNet,
    asinh_sigmas,
    log_likelihood_scales,
    measure_latent,
    sample_adams,
    sample_scales,
)
from monai_diffscore.losses import edm_weight
from monai_diffscore.tensors import noise_like

SHAPE = (2, 1, 16, 24, 16)


def autoencoder(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        3, 1, 1, num_res_blocks=1, channels=(8, 8, 8), attention_levels=(False,) * 3, latent_channels=2,
        norm_num_groups=4, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def volumes():
    return torch.randn(6, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


@pytest.fixture
def latent(volumes):
    pretrained = autoencoder(0)
    return Latent(pretrained, channels=2, stride=4, statistics=measure_latent(pretrained, volumes))


def model_of(latent: Latent) -> MultiScale:
    torch.manual_seed(1)
    network = ScoreUNet(3, 2, 2, (8, 8), [False] * 2, num_res_blocks=1)
    return MultiScale(latent, [Denoiser(network, EDMPreconditioning(1.0))])


def test_a_pretrained_autoencoder_of_monai_is_loaded_by_its_state_dict(volumes, tmp_path):
    pretrained = autoencoder(0)
    torch.save(pretrained.state_dict(), tmp_path / "autoencoder.pt")
    other = autoencoder(1)
    other.load_state_dict(torch.load(tmp_path / "autoencoder.pt", weights_only=True))
    latent = Latent(other, channels=2, stride=4, statistics=measure_latent(other, volumes)).eval()
    (scale,) = latent.split(volumes[:2])
    torch.testing.assert_close(latent.merge([scale.coefficients]), pretrained.eval().reconstruct(volumes[:2]))


def test_standardised_draws_have_mean_zero_and_variance_one_in_each_channel(latent, volumes):
    mean, std = latent.encode(volumes)
    second = (mean.square() + std.square()).mean((0, 2, 3, 4))
    torch.testing.assert_close(mean.mean((0, 2, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(second, torch.ones(2), atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([latent.draw(mean, std, generator) for _ in range(200)])
    torch.testing.assert_close(draws.std(0), std, rtol=0.3, atol=0)  # 6 standard errors of 200 draws


def test_training_sees_another_draw_each_time_and_evaluation_the_mean(latent, volumes):
    def coefficients():
        return latent.split(volumes[:1])[0].coefficients

    latent.train()
    assert not torch.equal(coefficients(), coefficients())
    assert not any(part.training for part in latent.autoencoder.modules())
    latent.eval()
    assert torch.equal(coefficients(), coefficients())


def test_the_loss_trains_the_score_model_and_leaves_the_autoencoder(latent, volumes):
    model = model_of(latent)
    weight = lambda sigma: edm_weight(sigma, 1.0)  # noqa: E731
    loss = MultiScaleLoss(latent, [DenoisingLoss(LogNormalNoise(), weight)], [None])
    loss(model, volumes).mean().backward()
    assert all(parameter.grad is None for parameter in latent.parameters())
    assert any(float(parameter.grad.abs().sum()) > 0 for parameter in model.denoisers.parameters())


def test_a_sample_is_the_decoded_sample_of_the_latent_image(latent):
    model, sigmas = model_of(latent), asinh_sigmas(3, 80.0)
    volumes = sample_scales(model, SHAPE, sigmas, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    start = noise_like(torch.empty(2, 2, 4, 6, 4), generator) * float(sigmas[0])
    with torch.no_grad():
        drawn = sample_adams(model.denoisers[0], start, sigmas, generator=generator)
        spread, middle = (value.float().reshape(1, 2, 1, 1, 1) for value in (latent.std, latent.mean))
        torch.testing.assert_close(volumes, latent.autoencoder.decode(drawn * spread + middle))


def test_weights_of_the_whole_model_carry_autoencoder_and_statistics(latent):
    other = model_of(Latent(autoencoder(5), channels=2, stride=4))
    other.load_state_dict(model_of(latent).state_dict())
    assert torch.equal(other.scales.std, latent.std)
    one, two = (sample_scales(m, SHAPE, asinh_sigmas(2, 80.0), generator=torch.Generator().manual_seed(3))
                for m in (other, model_of(latent)))  # fmt: skip
    assert torch.equal(one, two)


def test_a_latent_model_has_no_likelihood_and_no_coarse_image(latent, volumes):
    model = model_of(latent.eval())
    with pytest.raises(TypeError, match="no likelihood"):
        log_likelihood_scales(model, volumes[:1], asinh_sigmas(2, 80.0), divergence="hutchinson")
    with pytest.raises(ValueError, match="no coarse image"):
        sample_scales(model, SHAPE, asinh_sigmas(2, 80.0), coarse=torch.zeros(2, 1, 8, 12, 8))


def test_the_joint_state_of_a_latent_model_is_refused(latent):
    with pytest.raises(TypeError, match="got Latent"):
        JointScales(model_of(latent))


def test_sizes_strides_and_statistics_that_do_not_fit_are_refused(latent, volumes):
    with pytest.raises(ValueError, match=r"multiples of 4.*18"):
        latent.split(torch.zeros(1, 1, 16, 18, 16))
    with pytest.raises(ValueError, match=r"stride 8.*\(6, 2, 4, 6, 4\)"):
        Latent(latent.autoencoder, channels=2, stride=8).encode(volumes)
    with pytest.raises(ValueError, match="2 means"):
        Latent(latent.autoencoder, channels=2, stride=4, statistics={"mean": [0.0], "std": [1.0]})
    with pytest.raises(ValueError, match="at least one volume"):
        measure_latent(latent.autoencoder, [])
