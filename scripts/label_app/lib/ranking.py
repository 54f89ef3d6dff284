r"""How unlike a prior each image is, and which comes next.

Two numbers say so, which see different things:

- **nats per dimension** of patches, by the score model's likelihood. It is two-sided: noise and foreign structure are
  less likely than what the model knows, a blurred or empty image is more likely (Nalisnick et al. 2019,
  arXiv:1906.02994).
- **largest_score**, :math:`\max_v |s(v)|` of the anomaly map over the foreground: the scan statistic of the whole image
  (Kulldorff 1997), which one small lesion raises, where a mean over the volume hardly moves. It has no floor, as
  p-values have, and does not saturate when the calibration holds cases like it. Slides are looked at by a few tiles
  without a scan, and are ranked by **evidence** instead, the mean of :math:`-\log_{10} p` in tissue.

Among N scored images the more unusual has the larger :math:`u = \max(|z_{nats}|, z_{map})`, with z the distance
from the median in units of 1.4826 times the median absolute deviation: the bulk of the images, not their worst, is what
they are compared with. The **case p-value** is conformal, :math:`(1 + \#\{\text{others with a larger } u\}) / N`: what
share of the images is as unusual.

Cases within a tenth of the most unusual one's u are as good as tied, and of them the one that is least like what is
labelled or in work already is offered, by the distance of thumbnails: annotators do not get the same finding ten times.
Cases without a score come after those with one, those that the bundle refuses last: somebody should look at them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TIE = 0.1


def surprise(scores: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """u of each of the scores; of one alone 0."""
    parts = []
    of_map = "largest_score" if all("largest_score" in score for score in scores) else "evidence"
    for name, two_sided in (("nats_per_dim", True), (of_map, False)):
        if all(name in score for score in scores):
            z = robust_z(np.array([score[name] for score in scores], dtype=np.float64))
            parts.append(np.abs(z) if two_sided else z)
    return np.max(parts, axis=0) if parts else np.zeros(len(scores))


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distances from the median in units of 1.4826 times the median absolute deviation (the standard deviation, if the
    values are normal). Where more than half of the values are equal, that is 0, and the standard deviation is taken."""
    distance = values - np.median(values)
    unit = 1.4826 * np.median(np.abs(distance)) or values.std() or 1.0
    return np.asarray(distance / unit)


def case_p_values(u: np.ndarray) -> np.ndarray:
    """The share of images at least as unusual as each, itself among them."""
    return np.array([(u >= value).mean() for value in u])


def ranked(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores by image with ``surprise`` and ``case_p``, the most unusual first, those refused (without) last."""
    taken = [image for image, score in scores.items() if "refused" not in score]
    u = surprise([scores[image] for image in taken])
    found = {image: dict(score) for image, score in scores.items()}
    for image, value, p in zip(taken, u, case_p_values(u), strict=True):
        found[image] |= {"surprise": float(value), "case_p": float(p)}
    return dict(sorted(found.items(), key=lambda item: -item[1].get("surprise", -np.inf)))


def choose(free: Sequence[str], ranking: Mapping[str, Mapping[str, Any]]) -> str:
    """The next of the images that nobody has."""
    scored = [image for image in ranking if image in free and "surprise" in ranking[image]]
    if not scored:
        unscored = [image for image in free if image not in ranking]
        return (unscored or list(free))[0]
    best = ranking[scored[0]]["surprise"]
    tied = [image for image in scored if ranking[image]["surprise"] >= best - _TIE * max(best, 0.0)]
    known = [score["thumbnail"] for image, score in ranking.items() if image not in free and "thumbnail" in score]
    if len(tied) == 1 or not known:
        return tied[0]
    nearest = [min(_distance(ranking[image]["thumbnail"], other) for other in known) for image in tied]
    return tied[int(np.argmax(nearest))]


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))
