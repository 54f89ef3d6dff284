"""Tasks of a trained prior on a folder of cases: restoration, translation, anomaly detection, likelihood, imputation,
transfer.

Each task is an inferer for MONAI's evaluators and a postprocessing that writes the result of each case: NIfTI on the
grid of the source, a picture, and one row of numbers in ``cases.csv``, which ``TrackCases`` logs to MLflow.

==================================  ================================  ==================================================
inferer                             postprocessing                    task
==================================  ================================  ==================================================
:class:`RestorationInferer`         :class:`SavePosterior`            inpaint, super-resolve, denoise, reconstruct
:class:`TranslationInferer`         :class:`SaveTranslation`          an image of a contrast from those of others
:class:`AnomalyInferer`             :class:`CalibrateAnomaly`,        p-value at each voxel, label map
                                    :class:`SaveAnomaly`,
                                    :class:`ProposeAnomaly`
:class:`PatchLikelihoodInferer`     :class:`SaveLikelihood`           nats per dimension, out-of-distribution ranking
:class:`WholeRestorationInferer`     the same as of patches            the same, of whole volumes
:class:`WholeAnomalyInferer`
:class:`WholeLikelihoodInferer`
:class:`ImputationInferer`          :class:`SaveImputed`              counts of unmeasured genes
:class:`ProfileImputationInferer`   :class:`SaveImputedProfiles`      values of unmeasured genes
the same                            :class:`SaveImputedTable`         missing cells of a table
:class:`TransferInferer`            ``handlers.SaveCells``            cells in another batch
``inferers.LikelihoodInferer``      :class:`SaveCellLikelihood`       nats per dimension of each cell
``inferers.SamplingInferer``        :class:`SaveLabelledImage`        new images with label maps
==================================  ================================  ==================================================
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "anomaly": "AnomalyInferer CalibrateAnomaly ProposeAnomaly SaveAnomaly tissue",
        "case_tracking": "TrackCases",
        "cases": "CaseEvaluator CaseTable Cases WriteDicom WriteNifti intensity_range on_source_grid",
        "cell_likelihood": "SaveCellLikelihood",
        "imputation": "ImputationInferer SaveImputed",
        "labelled_images": "SaveLabelledImage",
        "likelihood": "PatchLikelihoodInferer SaveLikelihood",
        "profile_imputation": "ProfileImputationInferer SaveImputedProfiles",
        "restoration": "RestorationInferer SavePosterior box_mask estimate_noise line_angles",
        "table_imputation": "SaveImputedTable",
        "transfer": "TransferInferer",
        "translation": "SaveTranslation TranslationInferer",
        "whole_volumes": "WholeAnomalyInferer WholeLikelihoodInferer WholeRestorationInferer",
    },
)
