"""The next case for an annotator: the most unusual case without a lease.

A second request returns the same case until it is labelled, its lease expires, or the request has ``"skip": true``. A
request without ``client_id`` counts as a new annotator.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.leases import Leases
from lib.ranking import choose, ranked
from lib.scores import ScoreFolder
from lib.served import ServedBundle

logger = logging.getLogger(__name__)


class MostUnlike(Strategy):
    """Offers the case most unlike the prior of a bundle that has no other holder.

    Args:
        bundle: bundle of the prior.
        scores: folder of the scores.
        leases: leases of the server, which all strategies share.
    """

    def __init__(self, bundle: ServedBundle, scores: ScoreFolder, leases: Leases) -> None:
        super().__init__(f"The case most unlike the prior of {bundle.name}, for one annotator at a time")
        self.bundle, self.scores, self.leases = bundle, scores, leases

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        client = str(request.get("client_id") or f"anonymous-{uuid.uuid4().hex[:8]}")
        with self.leases.lock:
            unlabelled = sorted(datastore.get_unlabeled_images())
            for image in [image for image in unlabelled if self.leases.holder(image) == client]:
                if not request.get("skip"):
                    return self._offer(image, client, datastore)
                self.leases.skip(image, client)
            free = [image for image in unlabelled if self._may_have(image, client)]
            if not free:
                logger.info(f"nothing to offer to {client}: all {len(unlabelled)} unlabelled images have a holder")
                return None
            return self._offer(choose(free, self.ranking(datastore)), client, datastore)

    def _may_have(self, image: str, client: str) -> bool:
        lease = self.leases.held().get(image, {})
        return lease.get("client") in (None, client) and client not in lease.get("skipped", [])

    def _offer(self, image: str, client: str, datastore: Datastore) -> dict[str, Any]:
        until = self.leases.take(image, client)
        facts = self.ranking(datastore).get(image, {})
        facts = {name: value for name, value in facts.items() if name != "thumbnail"}
        logger.info(f"{image} for {client}: {facts}")
        return {"id": image, "client_id": client, "lease_until": int(until), **facts}

    def ranking(self, datastore: Datastore) -> dict[str, dict[str, Any]]:
        """The scores of all scored images, the most unusual first."""
        scores = {}
        for image in sorted(datastore.list_images()):
            score = self.scores.read(self.bundle, datastore.get_image_uri(image))
            if score is not None:
                scores[image] = score
        return ranked(scores)
