"""Handlers of a training and an evaluation: averages, checkpoints, records and pictures."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attach": "Attach",
        "cells": "SaveCells",
        "checkpoint": "ResumableCheckpoint",
        "early_stopping": "EarlyStopping",
        "ema": "PowerEMA",
        "ema_snapshots": "SnapshotEMA choose_length earlier_network reconstruct",
        "expression": "SaveProfiles",
        "gallery": "SampleGallery SaveArray SaveGallery SaveRows",
        "gradients": "ClipGradients",
        "manifest": "SaveManifest",
        "progress": "Progress TimeLimit ValidationLog epochs_of_best",
        "sharded_checkpoint": "ShardedCheckpoint",
        "tables": "SaveSchema SaveTable",
        "tracking": "Tracking",
    },
)
