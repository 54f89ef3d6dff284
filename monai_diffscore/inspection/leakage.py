"""Leaks between both sides of the split of a bundle's data."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigParser

from monai_diffscore.data.cases.leakage import leaks, may_read_voxels
from monai_diffscore.inspection.files import BundleFiles, Finding


def find_leaks(files: BundleFiles, voxels: bool = False) -> list[Finding]:
    """Subjects and contents on both sides, of bundles of images.

    Args:
        files: the bundle. Its train.json lists the data and splits it.
        voxels: compare the values of images of more than ``NEAR_BYTES``, too, which reads them all.
    """
    where = "configs/train.json: cases"
    train = files.configs.get("train", {})
    if "listing" not in train:
        remedy = "Leave --leaks out."
        return [Finding(where, "a bundle of images, whose files can be compared", "one of other data", remedy)]
    parser = ConfigParser()
    parser.read_config(train)
    parser["bundle_root"] = str(files.folder)
    source = Path(str(parser.get_parsed_content("dataset_dir")))
    if not source.exists():
        remedy = "Mount it, or leave --leaks out."
        return [Finding("configs/train.json: dataset_dir", "data that is there", f"nothing at {source}", remedy)]
    training, held_out = parser.get_parsed_content("cases")
    near = voxels or may_read_voxels(training, held_out)
    remedy = (
        "Take one of them out (--exclude of a plan, --left_out of a bundle), or give both one subject: by --subject, "
        "or in a table of cases."
    )
    return [
        Finding(where, "each subject and each image on one side of the split", str(leak), remedy)
        for leak in leaks(training, held_out, near=near)
    ]
