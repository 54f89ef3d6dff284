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
    asinh_sigmas,
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
    sample_repaint,
    sample_reverse_sde,
    sample_rk45,
    time_uniform_sigmas,
)
from monai_diffscore.likelihood import bits_per_dim, log_likelihood  # isort: skip
from monai_diffscore.operators import (  # isort: skip
    Blur,
    Downsample,
    FourierUndersampling,
    GeneDropout,
    Mask,
    Operator,
    Radon,
    cartesian_lines,
)
from monai_diffscore.guidance import (  # isort: skip
    Autoguidance,
    ClassifierFree,
    GuidanceInterval,
    Inpaint,
    PosteriorGuidance,
)
from monai_diffscore.tiling import SliceDenoiser, TiledDenoiser  # isort: skip
from monai_diffscore.anomaly import BallScan, HealthyScores, healthy_residuals  # isort: skip
from monai_diffscore.networks import ConditionEncoder, HierarchicalUNet, ScoreDiT, ScoreMLP, ScoreUNet  # isort: skip
from monai_diffscore.anomaly import HealthyScores, healthy_residuals  # isort: skip
from monai_diffscore.networks import (  # isort: skip
    ConditionEncoder,
    GeneResidualMLP,
    HierarchicalUNet,
    PathwayGNN,
    ScoreDiT,
    ScoreMLP,
    ScoreUNet,
)

__version__ = "0.1.0"

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "Autoguidance",
    "BallScan",
    "Blur",
    "ClassifierFree",
    "ConditionEncoder",
    "CosineVPSDE",
    "Denoiser",
    "DenoisingLoss",
    "Downsample",
    "EDMPreconditioning",
    "FlowPreconditioning",
    "FlowSDE",
    "FourierUndersampling",
    "GaussianDenoiser",
    "GeneDropout",
    "GeneResidualMLP",
    "GuidanceInterval",
    "HealthyScores",
    "HierarchicalUNet",
    "Inpaint",
    "LearnedUncertainty",
    "LogNormalNoise",
    "LogUniformNoise",
    "Mask",
    "MixtureDenoiser",
    "Operator",
    "PathwayGNN",
    "PosteriorGuidance",
    "Preconditioning",
    "Radon",
    "ScoreDiT",
    "ScoreMLP",
    "ScoreUNet",
    "SliceDenoiser",
    "SubVPSDE",
    "TiledDenoiser",
    "UniformTimeNoise",
    "VEPreconditioning",
    "VPPreconditioning",
    "VelocityPreconditioning",
    "asinh_sigmas",
    "bits_per_dim",
    "cartesian_lines",
    "cosine_sigmas",
    "edm_weight",
    "healthy_residuals",
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
    "sample_repaint",
    "sample_reverse_sde",
    "sample_rk45",
    "score",
    "time_uniform_sigmas",
]
