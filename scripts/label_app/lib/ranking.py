r"""The difference of each image from a prior, and the next image.

Two numbers measure the difference:

- **nats per dimension** of patches, by the score model's likelihood. It is two-sided: noise and foreign structure are
  less likely than what the model knows, a blurred or empty image is more likely (Nalisnick et al. 2019,
  arXiv:1906.02994).
- **largest_score**, :math:`\max_v |s(v)|` of the anomaly map over the foreground: the scan statistic of the whole image
  (Kulldorff 1997). One small lesion raises it, while a mean over the volume hardly moves. Unlike p-values it has no
  floor, and it does not saturate when the calibration holds similar cases. Slides have scores of a few tiles without a
  scan, and are ranked by **evidence** instead, the mean of :math:`-\log_{10} p` in tissue.

Among N scored images the more unusual has the larger :math:`u = \max(|z_{nats}|, z_{map})`, with z the distance
from the median in units of 1.4826 times the median absolute deviation, a comparison with the bulk of the images, not
with the worst. The **case p-value** is conformal, :math:`(1 + \#\{\text{others with a larger } u\}) / N`: the share of
images that are as unusual.

Cases within a tenth of the largest u count as tied. Of them the next case is the one least like the labelled and leased
cases, by the distance of thumbnails, so that annotators do not get the same finding ten times. Cases without a score
follow those with one. Cases that the bundle refuses come last: somebody should look at them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TIE = 0.1


def surprise(scores: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """u of each score; 0 for a single one."""
    parts = []
    of_map = "largest_score" if all("largest_score" in score for score in scores) else "evidence"
    for name, two_sided in (("nats_per_dim", True), (of_map, False)):
        if all(name in score for score in scores):
            z = robust_z(np.array([score[name] for score in scores], dtype=np.float64))
            parts.append(np.abs(z) if two_sided else z)
    return np.max(parts, axis=0) if parts else np.zeros(len(scores))


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distances from the median in units of 1.4826 times the median absolute deviation (the standard deviation, if the
    values are normal). If more than half of the values are equal, that is 0, and the unit is the standard deviation."""
    distance = values - np.median(values)
    unit = 1.4826 * np.median(np.abs(distance)) or values.std() or 1.0
    return np.asarray(distance / unit)


def case_p_values(u: np.ndarray) -> np.ndarray:
    """The share of images at least as unusual as each, itself among them."""
    return np.array([(u >= value).mean() for value in u])


def ranked(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores by image with ``surprise`` and ``case_p``, the most unusual first; refused images, without both, last."""
    accepted = [image for image, score in scores.items() if "refused" not in score]
    u = surprise([scores[image] for image in accepted])
    ranking = {image: dict(score) for image, score in scores.items()}
    for image, value, p in zip(accepted, u, case_p_values(u), strict=True):
        ranking[image] |= {"surprise": float(value), "case_p": float(p)}
    return dict(sorted(ranking.items(), key=lambda item: -item[1].get("surprise", -np.inf)))


def choose(free: Sequence[str], ranking: Mapping[str, Mapping[str, Any]]) -> str:
    """The next of the images without a lease."""
    scored = [image for image in ranking if image in free and "surprise" in ranking[image]]
    if not scored:
        unscored = [image for image in free if image not in ranking]
        return (unscored or list(free))[0]
    best = ranking[scored[0]]["surprise"]
    tied = [image for image in scored if ranking[image]["surprise"] >= best - _TIE * max(best, 0.0)]
    thumbnails = [score["thumbnail"] for image, score in ranking.items() if image not in free and "thumbnail" in score]
    if len(tied) == 1 or not thumbnails:
        return tied[0]
    nearest = [min(_distance(ranking[image]["thumbnail"], other) for other in thumbnails) for image in tied]
    return tied[int(np.argmax(nearest))]


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))
