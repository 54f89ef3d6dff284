"""Conditions and subjects of the images of a datastore.

The value of a field of a model comes from the request. The contrast comes from the name of the file otherwise, if a
word of it names one of the model's contrasts (``p1_T1.nii.gz``). A field without a value is missing: the model then
takes the image for one of any value.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from lib.problems import cause_of
from monai_diffscore.data import encode_conditions, list_slides, list_volumes
from monai_diffscore.data.cases.case import CONTRAST
from monai_diffscore.data.cases.names import role_of, stem
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)


def fields_of(parser: ConfigParser) -> dict[str, Any]:
    """The declared fields of a bundle; empty for a model without conditions."""
    return parser.get_parsed_content("fields") if "fields" in parser else {}


def requested_conditions(parser: ConfigParser) -> dict[str, Any]:
    """The values of fields in the request."""
    return parser.get_parsed_content("condition") if "condition" in parser else {}


def conditions_of(parser: ConfigParser, image: str, is_reference: bool = False) -> dict[str, float | int]:
    """The encoded conditions of an image.

    Args:
        parser: configuration of the bundle, with the request.
        image: its file.
        is_reference: the image is not that of the request: the request then states only what its name does not.
    Raises:
        DataError: for a value in the request that the model was not trained on.
    """
    fields = fields_of(parser)
    role = role_of(stem(image))
    stated = {CONTRAST: role} if role in fields.get(CONTRAST, {}).get("categories", ()) else {}
    requested = {name: value for name, value in requested_conditions(parser).items() if value is not None}
    return encode_conditions({**requested, **stated} if is_reference else {**stated, **requested}, fields)


def subjects_of(images: Sequence[str], of_slides: bool) -> dict[str, str]:
    """The subject of each image by the layout of their common folder; its path where the layout has no image of it.

    Two contrasts or visits of one patient then stay on one side of a split.
    """
    names: dict[str, str] = {}
    if len(images) > 1:
        folder = os.path.commonpath([str(Path(image).parent) for image in images])
        try:
            items = list_slides(folder) if of_slides else list_volumes(folder, conditions=[CONTRAST])
            names = {item["image"]: item["subject"] for item in items}
        except DataError as error:
            logger.warning(f"each image is a subject of its own: {cause_of(error)}")
    return {image: names.get(image, image) for image in images}
