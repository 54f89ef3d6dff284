"""Where data comes from: files, patches of them, and samples that come inside packages."""

from monai_diffscore.data.anndata import Expression, ExpressionRows, stratified_split, write_expression
from monai_diffscore.data.arrays import FitSized, LoadArrayd, LoadPictured, SavePictured, class_names, list_arrays
from monai_diffscore.data.cache import cached_dataset
from monai_diffscore.data.cells import LatentCells, ObservedCells, cell_statistics, requested_cells, split_cells
from monai_diffscore.data.counts import recover_counts
from monai_diffscore.data.dicom import (
    DicomReport,
    SaveDicomd,
    StrictDicomReader,
    read_dicom_series,
    read_with_field_of_view,
    write_dicom_seg,
    write_dicom_series,
)
from monai_diffscore.data.files import file_hash
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.gene_sets import GeneSets, read_gene_sets
from monai_diffscore.data.loader import ResumableLoader
from monai_diffscore.data.matrices import read_matrix
from monai_diffscore.data.participants import attach_participants, encode_conditions
from monai_diffscore.data.patches import (
    GridPatchesd,
    HeldOutSlabd,
    PositionChannelsd,
    load_statistics,
    measure_statistics,
    save_statistics,
    spread,
)
from monai_diffscore.data.rows import split_rows, toy_rows
from monai_diffscore.data.slides import Slide, list_slides
from monai_diffscore.data.table_inference import find_schema, infer_schema
from monai_diffscore.data.table_schema import Column, TableSchema
from monai_diffscore.data.tables import (
    incomplete_rows,
    read_table,
    requested_rows,
    split_table,
    table_rows,
    write_table,
)
from monai_diffscore.data.tiles import SaveTilesd, SlideTiles
from monai_diffscore.data.volumes import BlankVolumed, LoadVolumed, list_volumes, split_by_subject

__all__ = [
    "BlankVolumed",
    "Column",
    "DicomReport",
    "Expression",
    "ExpressionRows",
    "FitSized",
    "GeneFields",
    "GeneSets",
    "GridPatchesd",
    "HeldOutSlabd",
    "LatentCells",
    "LoadArrayd",
    "LoadPictured",
    "LoadVolumed",
    "ObservedCells",
    "PositionChannelsd",
    "ResumableLoader",
    "SaveDicomd",
    "SavePictured",
    "SaveTilesd",
    "Slide",
    "SlideTiles",
    "StrictDicomReader",
    "TableSchema",
    "attach_participants",
    "cached_dataset",
    "cell_statistics",
    "class_names",
    "encode_conditions",
    "file_hash",
    "find_schema",
    "incomplete_rows",
    "infer_schema",
    "list_arrays",
    "list_slides",
    "list_volumes",
    "load_statistics",
    "measure_statistics",
    "read_dicom_series",
    "read_gene_sets",
    "read_matrix",
    "read_table",
    "read_with_field_of_view",
    "recover_counts",
    "requested_cells",
    "requested_rows",
    "save_statistics",
    "split_by_subject",
    "split_cells",
    "split_rows",
    "split_table",
    "spread",
    "stratified_split",
    "table_rows",
    "toy_rows",
    "write_dicom_seg",
    "write_dicom_series",
    "write_expression",
    "write_table",
]
