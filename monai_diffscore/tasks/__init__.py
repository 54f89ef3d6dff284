"""What a trained prior is asked to do with a folder of cases: restore them, find what is not healthy, say how likely.

Each task is an inferer for MONAI's evaluators and a postprocessing that writes what it found for each case: NIfTI on
the grid of the source, a picture, and one row of numbers in ``cases.csv``, which ``handlers.TrackCases`` logs to
MLflow.

==================================  ================================  ==================================================
inferer                             postprocessing                    task
==================================  ================================  ==================================================
:class:`RestorationInferer`         :class:`SavePosterior`            inpaint, super-resolve, denoise, reconstruct
:class:`AnomalyInferer`             :class:`CalibrateAnomaly`,        p-value at each voxel, label map
                                    :class:`SaveAnomaly`,
                                    :class:`ProposeAnomaly`
:class:`PatchLikelihoodInferer`     :class:`SaveLikelihood`           nats per dimension, out-of-distribution ranking
:class:`ImputationInferer`          :class:`SaveImputed`              counts of genes that were not measured
:class:`ProfileImputationInferer`   :class:`SaveImputedProfiles`      values of genes that were not measured
the same                            :class:`SaveImputedTable`         cells of a table that are missing
:class:`TransferInferer`            ``handlers.SaveCells``            cells as another batch would show them
``engines.LikelihoodInferer``       :class:`SaveCellLikelihood`       nats per dimension of each cell
==================================  ================================  ==================================================
"""

from monai_diffscore.tasks.anomaly import AnomalyInferer, CalibrateAnomaly, ProposeAnomaly, SaveAnomaly, tissue
from monai_diffscore.tasks.cases import CaseTable, WriteDicom, WriteNifti, intensity_range, on_source_grid
from monai_diffscore.tasks.cell_likelihood import SaveCellLikelihood
from monai_diffscore.tasks.imputation import ImputationInferer, SaveImputed
from monai_diffscore.tasks.likelihood import PatchLikelihoodInferer, SaveLikelihood
from monai_diffscore.tasks.profile_imputation import ProfileImputationInferer, SaveImputedProfiles
from monai_diffscore.tasks.restoration import RestorationInferer, SavePosterior, box_mask, estimate_noise, line_angles
from monai_diffscore.tasks.table_imputation import SaveImputedTable
from monai_diffscore.tasks.transfer import TransferInferer, noise_up

__all__ = [
    "AnomalyInferer",
    "CalibrateAnomaly",
    "CaseTable",
    "ImputationInferer",
    "PatchLikelihoodInferer",
    "ProfileImputationInferer",
    "ProposeAnomaly",
    "RestorationInferer",
    "SaveAnomaly",
    "SaveCellLikelihood",
    "SaveImputed",
    "SaveImputedProfiles",
    "SaveImputedTable",
    "SaveLikelihood",
    "SavePosterior",
    "TransferInferer",
    "WriteDicom",
    "WriteNifti",
    "box_mask",
    "estimate_noise",
    "intensity_range",
    "line_angles",
    "noise_up",
    "on_source_grid",
    "tissue",
]
