"""A sample slide."""

from __future__ import annotations

import logging

from monai_diffscore.data.pictures import read_rgb, write_pyramid
from monai_diffscore.samples.cache import derived_path
from monai_diffscore.samples.catalogue import sample_path

logger = logging.getLogger(__name__)


#: size of a pixel of the ihc sample: its source states none; nuclei of about 7 um measure about 14 pixels
IHC_NOMINAL_MPP_UM = 0.5


def ihc_slide() -> str:
    """scikit-image's picture of colonic glands (DAB and haematoxylin) as a slide: a tiled pyramidal TIFF in the cache.

    512 x 512 pixels and a level of half the size. The first call writes the file. Its source states no pixel size; the
    file states the **nominal** 0.5 um, with a note in its description. Override: ``MONAI_DIFFSCORE_IHC`` (an image of
    any size).

    Raises:
        DataError: if scikit-image is not installed.
    """
    source = sample_path("ihc")
    path = derived_path(source, "ihc").with_suffix(".tif")
    if not path.is_file():
        description = f"scikit-image ihc.png; pixel size nominal ({IHC_NOMINAL_MPP_UM} um), its source states none"
        write_pyramid(read_rgb(source), path, mpp_um=IHC_NOMINAL_MPP_UM, tile=128, levels=2, description=description)
        logger.info("wrote the sample slide %s (pixel size nominal: %s um)", path, IHC_NOMINAL_MPP_UM)
    return str(path)
