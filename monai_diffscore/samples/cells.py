"""Sample cells, as counts."""

from __future__ import annotations

import logging

from monai_diffscore.atomic_files import whole_path
from monai_diffscore.samples.cache import derived_path
from monai_diffscore.samples.catalogue import sample_path
from monai_diffscore.transforms.counts import recover_counts

logger = logging.getLogger(__name__)


def pbmc68k() -> str:
    """700 blood cells x 765 genes of scanpy's sample with their **counts**: an .h5ad file in the cache.

    scanpy's file holds z-scores as X and :math:`\\log(1 + 10^4 x / l)`, rounded to three decimals, as ``raw``. The
    counts x are recovered exactly, with the totals l in ``obs['n_counts']``
    (:func:`~monai_diffscore.transforms.counts.recover_counts`). The cached file has ``layers['counts']``, the
    log-normalised X, ``obs['bulk_labels']`` (10 cell types) and ``obs['n_counts']``; the 765 genes are a fifth of these
    totals. The first call writes the file. Override: ``MONAI_DIFFSCORE_PBMC68K_REDUCED``.

    Raises:
        DataError: if scanpy is not installed, or the counts cannot be recovered.
    """
    import warnings

    import anndata

    source = sample_path("pbmc68k_reduced")
    path = derived_path(source, "pbmc68k").with_suffix(".h5ad")
    if not path.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the file's format
            sample = anndata.read_h5ad(source)
        counts = recover_counts(sample.raw.X, sample.obs["n_counts"], source=source)
        cells = anndata.AnnData(
            sample.raw.X,
            obs=sample.obs[["bulk_labels", "n_counts", "phase", "louvain"]],
            var=sample.raw.var[[]],
            layers={"counts": counts},
        )
        with whole_path(path) as file:
            cells.write_h5ad(file)
        logger.info("wrote the sample cells %s", path)
    return str(path)
