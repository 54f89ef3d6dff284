"""What happens around the training iterations: averages, checkpoints, records and pictures."""

from monai_diffscore.handlers.attach import Attach
from monai_diffscore.handlers.cases import TrackCases
from monai_diffscore.handlers.cells import SaveCells
from monai_diffscore.handlers.checkpoint import ResumableCheckpoint
from monai_diffscore.handlers.early_stopping import EarlyStopping
from monai_diffscore.handlers.ema import PowerEMA
from monai_diffscore.handlers.expression import SaveProfiles
from monai_diffscore.handlers.gallery import SampleGallery, SaveArray, SaveGallery, SaveRows
from monai_diffscore.handlers.gradients import ClipGradients
from monai_diffscore.handlers.progress import Progress, TimeLimit, ValidationLog, epochs_of_best
from monai_diffscore.handlers.sharded_checkpoint import ShardedCheckpoint
from monai_diffscore.handlers.tables import SaveSchema, SaveTable
from monai_diffscore.handlers.tracking import Tracking

__all__ = [
    "Attach",
    "ClipGradients",
    "EarlyStopping",
    "PowerEMA",
    "Progress",
    "ResumableCheckpoint",
    "SampleGallery",
    "SaveArray",
    "SaveCells",
    "SaveGallery",
    "SaveProfiles",
    "SaveRows",
    "SaveSchema",
    "SaveTable",
    "ShardedCheckpoint",
    "TimeLimit",
    "TrackCases",
    "Tracking",
    "ValidationLog",
    "epochs_of_best",
]
