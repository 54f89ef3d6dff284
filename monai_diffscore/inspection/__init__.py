"""Checks before a run: of a bundle, for faults that MONAI accepts silently or reports only after hours; of a device.

:func:`inspect_bundle` returns a list of :class:`Finding`. The list of every shipped and every planned bundle is empty.

======================  ==========================================================================================
module                  finds
======================  ==========================================================================================
``references``          ids that nothing reads, references without a target, overrides without effect, expressions
                        that fail
``components``          ``_target_`` that do not exist, keywords that they do not take or miss
``agreement``           training and inference that differ: network, precision, sigma_data, range, conditions
``leakage``             (on request) subjects and images on both sides of the split of the data
``publication``         missing files, ids, metadata and versions that MONAI, its model zoo and MONAI Label need
``bundle``              all of these
``arithmetic``          networks that a device computes otherwise than the CPU (``scripts/check_cuda``)
======================  ==========================================================================================
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bundle": "inspect_bundle",
        "files": "BundleFiles Finding",
    },
)
