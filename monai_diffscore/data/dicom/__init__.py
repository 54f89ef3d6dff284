"""DICOM series, read strictly and written without patient data."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "reader": "StrictDicomReader holds_dicom read_dicom_series read_with_field_of_view",
        "report": "DicomReport",
        "rules": "ReadingRules",
        "segmentation": "write_dicom_seg",
        "series": "Series find_series volume_series",
        "writer": "SaveDicomd WrittenSeries write_dicom_series",
    },
)
