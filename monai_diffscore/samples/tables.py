"""Sample tables of patients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.samples.cache import derived_path
from monai_diffscore.samples.catalogue import sample_path

logger = logging.getLogger(__name__)


def breast_cancer() -> str:
    """scikit-learn's breast-cancer table with names: a .csv file in the cache, 569 tumours x 30 numbers and
    ``diagnosis`` (malignant or benign). The first call writes the file.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    from sklearn.datasets import load_breast_cancer

    def frame() -> Any:
        table = load_breast_cancer(as_frame=True)
        return table.data.assign(diagnosis=table.target_names[table.target])

    return _table("breast_cancer", frame)


def diabetes() -> str:
    """scikit-learn's diabetes table in its units: a .csv file in the cache, 442 patients x 10 columns (age, sex, body
    mass index, blood pressure, six serum measurements) and ``progression`` after a year. The first call writes the
    file.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    from sklearn.datasets import load_diabetes

    def frame() -> Any:
        table = load_diabetes(as_frame=True, scaled=False)
        return table.data.assign(progression=table.target)

    return _table("diabetes", frame)


def _table(name: str, frame: Callable[[], Any]) -> str:
    path = derived_path(sample_path(name), name).with_suffix(".csv")
    if not path.is_file():
        with whole_file(path) as file:
            frame().to_csv(file, index=False)
        logger.info("wrote the sample table %s", path)
    return str(path)
