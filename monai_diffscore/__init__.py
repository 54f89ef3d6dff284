"""Score-based diffusion for medical images and omics, as MONAI Bundles.

Everything works on one function, the denoiser ``D(x, sigma) = E[x0 | x]``. The names below are a table of contents, in
reading order; engines and handlers, which need MONAI and MLflow, are imported from their modules.
"""

from monai_diffscore.sde import SDE, CosineVPSDE, FlowSDE, SubVPSDE, VESDE, VPSDE  # isort: skip
from monai_diffscore.denoiser import (  # isort: skip
    Denoiser,
    EDMPreconditioning,
    FlowPreconditioning,
    GaussianDenoiser,
    MixtureDenoiser,
    Preconditioning,
    VelocityPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
    score,
)
from monai_diffscore.losses import (  # isort: skip
    DenoisingLoss,
    LearnedUncertainty,
    LogNormalNoise,
    LogUniformNoise,
    UniformTimeNoise,
    edm_weight,
    likelihood_weight,
    min_snr_weight,
)
from monai_diffscore.sampling import (  # isort: skip
    cosine_sigmas,
    karras_sigmas,
    log_uniform_sigmas,
    sample_adams,
    sample_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_euler,
    sample_heun,
    sample_predictor_corrector,
    sample_reverse_sde,
    sample_rk45,
    time_uniform_sigmas,
)
from monai_diffscore.likelihood import bits_per_dim, log_likelihood  # isort: skip
from monai_diffscore.networks import ConditionEncoder, HierarchicalUNet, ScoreDiT, ScoreMLP, ScoreUNet  # isort: skip

__version__ = "0.1.0"

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "ConditionEncoder",
    "CosineVPSDE",
    "Denoiser",
    "DenoisingLoss",
    "EDMPreconditioning",
    "FlowPreconditioning",
    "FlowSDE",
    "GaussianDenoiser",
    "HierarchicalUNet",
    "LearnedUncertainty",
    "LogNormalNoise",
    "LogUniformNoise",
    "MixtureDenoiser",
    "Preconditioning",
    "ScoreDiT",
    "ScoreMLP",
    "ScoreUNet",
    "SubVPSDE",
    "UniformTimeNoise",
    "VEPreconditioning",
    "VPPreconditioning",
    "VelocityPreconditioning",
    "bits_per_dim",
    "cosine_sigmas",
    "edm_weight",
    "karras_sigmas",
    "likelihood_weight",
    "log_likelihood",
    "log_uniform_sigmas",
    "min_snr_weight",
    "sample_adams",
    "sample_ancestral",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_euler",
    "sample_heun",
    "sample_predictor_corrector",
    "sample_reverse_sde",
    "sample_rk45",
    "score",
    "time_uniform_sigmas",
]
