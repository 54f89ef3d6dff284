"""Metrics of models and of sets of images.

``denoising`` compares models on held-out data during a training. The other modules are the quality panel of generated
data: a module for each metric, ``controls`` that the metrics must detect, and the ``panel`` of all metrics. Profiles
(cells, samples, rows of a table) have metrics of their own in ``two_sample``, ``overlap``, ``marginals``, ``markers``,
``usefulness`` and ``privacy``, and ``baselines`` to beat.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "baselines": "BASELINES copies copula held_in negative_binomial pca_gmm smote",
        "controls": "CONTROLS blurred collapsed noisy shifted shuffled spoil",
        "denoising": "DenoisingError PredictionMean level_errors lower_is_better scale_errors",
        "diversity": "PairSimilarity",
        "features": "RandomFeatureFrechet frechet_distance random_features",
        "image_metric": "ImageMetric SetMetric",
        "intensity": "IntensityDistance quantiles",
        "marginals": (
            "ColumnDistance CorrelationAgreement CorrelationError LibraryDistance MeanAgreement VarianceAgreement "
            "VarianceRatio ZeroError"
        ),
        "markers": "MarkerAgreement MarkerSlope",
        "memorisation": "MemorisationRatio Neighbours nearest_windows suspected_copies",
        "overlap": "AssignmentDistance KernelDiscrepancy NeighbourMixing",
        "panel": "FLOOR Estimate Row assess image_panel_metrics",
        "privacy": "ClosestRecord NearestTrainShare PrivacyGate privacy_gate",
        "profile_panel": "MODEL ProfilePanel assess_profiles profile_panel_metrics reason_against",
        "profiles": "Comparison ProfileMetric Profiles Reference log_profiles",
        "seams": "seam_ratio",
        "spectrum": "SpectrumError radial_power ring_frequencies",
        "texture": "PatchSlicedWasserstein",
        "two_sample": "ForestTwoSample LogisticTwoSample",
        "usefulness": "TrainOnSyntheticAccuracy TrainOnSyntheticF1 TrainOnSyntheticImages",
    },
)
