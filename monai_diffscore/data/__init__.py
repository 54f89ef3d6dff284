"""Where data comes from: files, patches of them, and samples that come inside packages."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "anndata": "Expression ExpressionRows stratified_split write_expression",
        "arrays": "FitSized LoadArrayd LoadPictured SavePictured cases_of_arrays class_names list_arrays listed_arrays",
        "cache": "cached_dataset",
        "cases.case": "role_names",
        "cells": "LatentCells ObservedCells cell_statistics requested_cells split_cells",
        "dicom": (
            "DicomReport SaveDicomd StrictDicomReader read_dicom_series read_with_field_of_view write_dicom_seg "
            "write_dicom_series"
        ),
        "files": "file_hash",
        "gene_fields": "GeneFields find_fields",
        "gene_sets": "GeneSets read_gene_sets",
        "image_requests": "labels_in_turn requested_labels requested_tiles seeded_cases",
        "intake": "count_intake intake_lines report_intake",
        "labelled_images": "JoinLabelsd SplitLabelsd joint_channels joint_classes",
        "label_maps": "label_classes one_hot part_sizes read_label_map",
        "loader": "ResumableLoader",
        "matrices": "read_matrix",
        "misregistration": "misregistration_mm",
        "pairs": "LoadGivend LoadTargetd",
        "participants": "find_participants attach_participants categorical_fields continuous_fields encode_conditions",
        "patches": (
            "GridPatchesd HeldOutSlabd PositionChannelsd evenly_spaced load_statistics measure_statistics "
            "rotation_ranges save_statistics size_to_turn"
        ),
        "rows": "split_rows",
        "slide_stains": "fit_slide fit_slides",
        "slides": "Slide list_slides listed_slides pixel_spacing_mm",
        "table_inference": "find_schema infer_schema",
        "statistics": "evenly_spaced_items measure_cases require_weights statistics_beside weights_folder",
        "tables": "DitheredRows incomplete_rows read_table requested_rows split_table table_rows write_table",
        "tiles": "SaveTilesd SlideTiles",
        "training_files": "card_of_training used_files",
        "volumes": "BlankVolumed LoadVolumed list_volumes listed_cases split_by_subject",
    },
)
