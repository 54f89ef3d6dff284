"""Bundles from parts. What bundles have in common is written once, as JSON; a bundle declares what is its own.

=================  ===================================================================================================
`parts`            JSON files, each of which says one thing: the training loop, volumes, CT, a U-Net, a task
`declarations`     a JSON file for each shipped bundle: its parts, in order, and what is its own
`merging`          how parts merge
`composition`      the configurations of a bundle: its parts, its declaration, the values of a plan
`formatting`       their text
`bundle`           their folder
=================  ===================================================================================================

``python -m monai_diffscore compose`` writes the shipped bundles again.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bundle": "differences write_bundle_files write_shipped",
        "composition": "Config compose declaration declared network_of",
        "merging": "OPEN Whole",
    },
)
