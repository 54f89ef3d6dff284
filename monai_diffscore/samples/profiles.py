"""Sample expression profiles: of patients, and simulated."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from monai_diffscore.atomic_files import whole_path
from monai_diffscore.samples.cache import cache_folder, derived_path
from monai_diffscore.samples.catalogue import sample_path
from monai_diffscore.samples.expression_set import read_expression_set
from monai_diffscore.samples.simulated_expression import write_simulated

logger = logging.getLogger(__name__)


def leukaemia() -> str:
    """Expression of 128 patients with acute lymphoblastic leukaemia (Debian's r-bioc-all): an .h5ad file in the cache.

    12625 probe sets (Affymetrix HG-U95Av2), RMA, log2; independent patients. ``obs['group']`` is B (95) or T (33), the
    first letter of ``BT``; other columns are those of the package. Source: Chiaretti et al. 2004, Blood 103, 2771.
    The first call writes the file. Override: ``MONAI_DIFFSCORE_ALL_LEUKAEMIA`` (another ALL.rda).

    Raises:
        DataError: if the package or rdata is not installed.
    """
    import anndata
    import pandas as pd

    source = sample_path("all_leukaemia")
    path = derived_path(source, "leukaemia").with_suffix(".h5ad")
    if not path.is_file():
        values, table, genes = read_expression_set(source, "ALL")
        obs = pd.DataFrame({name: table[name].astype(str) for name in ("BT", "mol.biol", "sex")})
        obs["age"] = pd.to_numeric(table["age"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        obs["group"] = obs["BT"].str[0]
        with whole_path(path) as file:
            anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(genes))).write_h5ad(file)
        logger.info("wrote the sample profiles %s", path)
    return str(path)


def simulated_profiles(file: str = "expression.h5ad") -> str:
    """480 **simulated** expression profiles of 400 genes, or with ``file="links.tsv"`` the graph of the simulation.

    See :mod:`~monai_diffscore.samples.simulated_expression`. No Python package contains a small set of bulk expression
    under a free licence. Override: ``MONAI_DIFFSCORE_PROFILES``, a folder with both files.
    """
    override = os.environ.get("MONAI_DIFFSCORE_PROFILES")
    if override:
        return str(Path(override) / file)
    if file.endswith(".h5ad"):
        logger.warning(
            "SIMULATED expression is used, drawn from a graph of 400 genes and no patient's. For real data: "
            "--dataset_dir MATRIX, or the Debian package r-bioc-all with configs/leukaemia.json."
        )
    return str(write_simulated(cache_folder() / "simulated_profiles") / file)
