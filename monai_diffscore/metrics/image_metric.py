r"""A metric of a *set* of images, beside a set of real ones.

No metric of a generative model belongs to one image. Each here is written in two steps,

.. math::  r_i = \mathrm{describe}(x_i), \qquad m = \mathrm{compare}(\{r_i\}, \{r'_j\}),

a row for each image and a number for two sets of rows. The rows cost the time; the number is cheap. So a bootstrap over
images, a split of real data into halves and a sum over processes are written once, for every metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import ignite.distributed as idist
import numpy as np
import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor


class Caption:
    """The texts and properties of a metric, for any kind of data.

    ``two_sided``: real data have a value of their own, and both more and less are wrong. ``higher_is_better``: less
    than real data is wrong. Otherwise the metric is a distance, and 0 is perfect.
    """

    #: name in files and in the record: a word or two with underscores
    name: ClassVar[str]
    title: ClassVar[str]
    #: faults that it detects, and faults that it misses: a metric without the second is an advertisement
    sees: ClassVar[str]
    blind_to: ClassVar[str]
    two_sided: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    #: range of its values, which limits intervals
    bounds: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    #: whether its chart begins at 0
    from_zero: ClassVar[bool] = True
    unit: str = ""


class ImageMetric(Caption, ABC):
    """A number for two sets of images [N, C, *S] in normalised units, -1 to 1.

    ``labelled``: it needs the labels of the images.
    """

    bounds = (0, np.inf)
    labelled: ClassVar[bool] = False

    @abstractmethod
    def describe(self, images: Tensor) -> Tensor:
        """A row [N, ...] for each image."""

    @abstractmethod
    def compare(self, rows: Tensor, reference: Tensor) -> float:
        """The number for two sets of rows."""

    def rows(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The rows for ``compare``: one for each image, which ends with its label for a labelled metric.

        Raises:
            ValueError: if a labelled metric gets no labels.
        """
        described = self.describe(images)
        if not self.labelled:
            return described
        if labels is None or len(labels) != len(images):
            got = "none" if labels is None else f"{len(labels)}"
            raise ValueError(f"{self.title}: expected a label of each of the {len(images)} images, got {got}.")
        return torch.cat([described, labels[:, None].to(described)], dim=1)

    def __call__(
        self, samples: Tensor, reference: Tensor, labels: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
    ) -> float:
        """The number for two sets of images [N, C, *S] and [M, C, *S], and their labels for a labelled metric.

        Raises:
            ValueError: if the images differ in size or channels, or a labelled metric gets no labels.
        """
        check_images(samples, reference)
        return self.compare(self.rows(samples, labels[0]), self.rows(reference, labels[1]))


def check_images(samples: Tensor, reference: Tensor) -> None:
    """Refuses sets of images that cannot be compared.

    Raises:
        ValueError: if one is empty or they differ in size or channels.
    """
    shapes = f"{tuple(samples.shape)} and {tuple(reference.shape)}"
    if samples.ndim < 3 or samples.shape[1:] != reference.shape[1:] or not len(samples) or not len(reference):
        raise ValueError(
            f"Expected two sets of images [N, C, *S] and [M, C, *S] of one size, got {shapes}. "
            "Crop or resample them alike beforehand."
        )


class SetMetric(Metric):
    """An :class:`ImageMetric` of an evaluator's samples, for its ``additional_metrics``.

    Collects ``engine.state.output["pred"]`` [B, C, *S] over the run (and over processes) and compares it with real
    images. An evaluator with postprocessing passes postprocessed samples: the reference needs the same units.

    Args:
        metric: the metric.
        reference: real images [N, C, *S].
        key: key of the samples in the output.
    """

    required_output_keys = None
    _state_dict_all_req_keys = ("_samples",)

    def __init__(
        self, metric: ImageMetric, reference: Tensor, key: str = "pred", device: str | torch.device = "cpu"
    ) -> None:
        self.metric, self.reference, self.key = metric, reference, key
        super().__init__(output_transform=self._of_output, device=device)

    @reinit__is_reduced
    def reset(self) -> None:
        self._samples: list[Tensor] = []

    @reinit__is_reduced
    def update(self, samples: Tensor) -> None:
        self._samples.append(torch.as_tensor(samples).detach().to("cpu", torch.float32))

    def compute(self) -> float:
        if not self._samples:
            raise ValueError("No sample was evaluated: the evaluator's data is empty.")
        samples = idist.all_gather(torch.cat(self._samples))
        assert isinstance(samples, Tensor)
        return self.metric(samples.cpu(), self.reference)

    def _of_output(self, output: Any) -> Tensor:
        if isinstance(output, list):  # MONAI's decollated form
            return torch.stack([torch.as_tensor(item[self.key]) for item in output])
        samples: Tensor = output[self.key]
        return samples
