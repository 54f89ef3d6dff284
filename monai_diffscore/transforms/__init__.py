"""Invertible transforms that MONAI lacks, in array and dictionary form."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bias_field": "N4BiasCorrect N4BiasCorrectd",
        "counts": "recover_counts",
        "group_means": "GroupMeans GroupMeansd measure_group_means",
        "hounsfield": (
            "WINDOWS_HU HounsfieldUnits HounsfieldUnitsd ReplacePadding ReplacePaddingd WindowHU WindowHUd is_body"
        ),
        "intensity": (
            "ForegroundZScore ForegroundZScored IntensityTransform IntensityTransformd PercentileScale "
            "PercentileScaled WindowIntensity WindowIntensityd"
        ),
        "normal_scores": "NormalScores NormalScoresd measure_quantiles",
        "nyul": "NyulStandardize NyulStandardized",
        "omics": "GeneScale LogNormalize LogNormalized StandardizeGenes StandardizeGenesd measure_gene_scale",
        "pathology": "JitterStains NormalizeReinhard NormalizeStains RandJitterStains ScaleRGB ToRGB",
        "pathology_dictionary": "NormalizeReinhardd NormalizeStainsd RandJitterStainsd ScaleRGBd ToRGBd",
        "pathology_stains": "LabStatistics Stains fit_macenko fit_reinhard fit_vahadane",
        "principal": "PrincipalComponents PrincipalComponentsd measure_components",
        "table": "EncodeTable EncodeTabled TableEncoding measure_encoding",
        "table_column": "Column",
        "table_schema": "TableSchema",
    },
)
