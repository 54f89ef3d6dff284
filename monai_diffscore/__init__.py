"""Score-based diffusion for medical images and omics, as MONAI Bundles.

Everything works on one function, the denoiser ``D(x, sigma) = E[x0 | x]``. The names below are a table of contents, in
reading order; engines and handlers, which need MONAI and MLflow, are imported from their modules.
"""

from monai_diffscore.exports import lazy_exports

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "sde": "SDE CosineVPSDE FlowSDE SubVPSDE VESDE VPSDE",
        "denoiser": (
            "Denoiser EDMPreconditioning FlowPreconditioning GaussianDenoiser MixtureDenoiser Preconditioning "
            "VelocityPreconditioning VEPreconditioning VPPreconditioning score"
        ),
        "losses": (
            "DenoisingLoss LearnedUncertainty LogNormalNoise LogUniformNoise UniformTimeNoise edm_weight "
            "flow_weight likelihood_weight min_snr_weight"
        ),
        "sampling": (
            "asinh_sigmas cosine_sigmas karras_sigmas log_uniform_sigmas sample_adams sample_ancestral "
            "sample_dpmpp_2m sample_dpmpp_2m_sde sample_euler sample_heun sample_predictor_corrector "
            "sample_repaint sample_reverse_sde sample_rk45 time_uniform_sigmas"
        ),
        "pyramid": "Pyramid",
        "scales": "Scales measure_scales",
        "latent": "Latent measure_latent",
        "likelihood": "bits_per_dim log_likelihood",
        "operators": (
            "Blur Downsample FourierUndersampling GeneDropout GeneLoadings Mask Operator Radon cartesian_lines"
        ),
        "guidance": "Autoguidance ClassifierFree GuidanceInterval Inpaint LikelihoodGuidance PosteriorGuidance",
        "tiling": "SliceDenoiser TiledDenoiser",
        "multiscale": "MultiScale MultiScaleLoss log_likelihood_scales sample_scales",
        "detail_tiles": "DetailTiles",
        "joint_scales": "JointScales StateOperator",
        "anomaly": "BallScan HealthyReference HealthyScores healthy_residuals",
        "networks": (
            "ConditionEncoder CountsAutoencoder GeneResidualMLP HierarchicalUNet PathwayGNN ScoreDiT ScoreMLP "
            "ScoreUNet SingleCellNet"
        ),
    },
)
