r"""Privacy: are synthetic rows nearer to the training rows than rows of other people?

**Distance to the closest record**, as a ratio in the embedding E,

.. math::  \frac{\mathrm{median}_j \min_k \lVert E(s_j) - E(t_k) \rVert}
    {\mathrm{median}_i \min_k \lVert E(r_i) - E(t_k) \rVert}:

1 if a synthetic row is as new as a held-out row, 0 if most are copies. A median misses a few copies, so the gate also
counts rows nearer than half the distance of **any** held-out row. The **share** p of rows whose nearest real row is a
training row is corrected for the sizes of the sets by its odds, :math:`o = \frac{p}{1-p} \frac{n}{n_T}`, as
:math:`o / (1 + o)`: of rows drawn from one distribution each is the nearest equally often, so .5 is chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic, nearest_distance

#: a lower ratio voids all other metrics of a set of samples
DCR_LIMIT = 0.85
#: so does a larger share of suspected copies
COPIES_LIMIT = 0.01


class ClosestRecord(ProfileMetric):
    """Median distance of S to T in E over that of R to T."""

    name = "dcr_ratio"
    from_zero = True
    title = "Distance to closest record (DCR)"
    unit = "ratio, 1 best"
    bounds = (0, np.inf)
    two_sided = True
    sees = "Memorised training rows and blends of them (below 1); rows far from all data (above 1)."
    blind_to = (
        "Copies of less than half of the rows, which are counted beside it; an attribute "
        "that is told of a person without a copy. No privacy guarantee follows from it."
    )

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = comparison.reference.real_distance, comparison.synthetic_distance
        return lambda i, j: float(np.median(synthetic[j]) / max(float(np.median(real[i])), 1e-12))


class NearestTrainShare(ProfileMetric):
    """Share of S whose nearest real row is in T and not in R, as if R and T had one size."""

    name = "nearest_train_share"
    title = "Nearest is a training row"
    unit = "share, 0.5 is chance"
    bounds = (0, 1)
    two_sided = True
    sees = "Samples drawn to the training rows, copies and blends (above .5)."
    blind_to = "How near: a smooth density that leans to the training rows counts like a copy."

    def statistic(self, comparison: Comparison) -> Statistic:
        held_out = nearest_distance(comparison.synthetic_points, comparison.real_points)
        trained = comparison.synthetic_distance
        # a row that both sets hold counts half
        nearer = (trained < held_out) + 0.5 * (trained == held_out)
        weight = len(comparison.real) / len(comparison.train)

        def share(real: np.ndarray, synthetic: np.ndarray) -> float:
            p = float(nearer[synthetic].mean())
            return p * weight / (p * weight + 1 - p)

        return share


@dataclass(frozen=True)
class PrivacyGate:
    """The privacy of a set of rows. If the gate fails, no other metric counts.

    ``ratio``: of :class:`ClosestRecord`; ``copies``: places of the suspected copies in S; ``rows``: of S.
    """

    ratio: float
    copies: tuple[int, ...]
    rows: int

    @property
    def passed(self) -> bool:
        """Whether the ratio is at least :data:`DCR_LIMIT` and at most 1 % of the rows are suspected copies."""
        return self.ratio >= DCR_LIMIT and len(self.copies) <= COPIES_LIMIT * self.rows

    @property
    def reason(self) -> str:
        """The verdict in a sentence."""
        suspected = f"{len(self.copies)} of {self.rows} rows are suspected copies (at most {COPIES_LIMIT:.0%} may be)"
        ratio = f"the distance to the closest record is {self.ratio:.2f} of that of held-out rows (limit {DCR_LIMIT})"
        return f"Privacy gate {'passed' if self.passed else 'FAILED'}: {ratio}; {suspected}."


def privacy_gate(comparison: Comparison) -> PrivacyGate:
    """Measures the gate. A suspected copy is nearer to a training row than half the distance of any held-out row."""
    limit = 0.5 * float(comparison.reference.real_distance.min())
    copies = np.flatnonzero(comparison.synthetic_distance < limit)
    return PrivacyGate(ClosestRecord()(comparison), tuple(int(place) for place in copies), len(comparison.synthetic))
