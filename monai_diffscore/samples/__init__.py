"""Sample data for every bundle, without a download: real data inside packages, or simulated data."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "catalogue": "CATALOGUE Sample command_for_the_rest describe_samples find_sample list_samples sample_path",
        "cache": "cache_folder",
        "volumes": "ct mni152",
        "chests": "ct_phantom drawn_chests write_ct_phantoms",
        "slides": "IHC_NOMINAL_MPP_UM ihc_slide",
        "arrays": "digits ecg",
        "cells": "pbmc68k",
        "profiles": "leukaemia simulated_profiles",
        "simulated_expression": "attachment_edges draw_field field_precision simulate_expression",
        "simulated_heads": "Head heads simulate_head",
        "tables": "breast_cancer diabetes",
        "labels": "label_of",
        "toys": "TOYS split_points toy_rows",
    },
)
