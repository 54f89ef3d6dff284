"""DICOM series, read strictly and written without a trace of a patient."""

from monai_diffscore.data.dicom.reader import (
    StrictDicomReader,
    holds_dicom,
    read_dicom_series,
    read_with_field_of_view,
    split_path,
)
from monai_diffscore.data.dicom.report import DicomReport
from monai_diffscore.data.dicom.rules import ReadingRules
from monai_diffscore.data.dicom.segmentation import write_dicom_seg
from monai_diffscore.data.dicom.series import Series, find_series, volume_series
from monai_diffscore.data.dicom.writer import SaveDicomd, WrittenSeries, write_dicom_series

__all__ = [
    "DicomReport",
    "ReadingRules",
    "SaveDicomd",
    "Series",
    "StrictDicomReader",
    "WrittenSeries",
    "find_series",
    "holds_dicom",
    "read_dicom_series",
    "read_with_field_of_view",
    "split_path",
    "volume_series",
    "write_dicom_seg",
    "write_dicom_series",
]
