"""Which case is offered next, and to whom.

**Order.** The most unusual case first (:func:`lib.scoring.surprise`). Cases within a tenth of the most unusual one's
score are as good as tied, and of them the one that is least like what is labelled or in work already is offered:
annotators do not get the same finding ten times. Cases without a score come after those with one, those that the bundle
refuses last: somebody should look at them too.

**Leases.** A case that is offered belongs to its annotator for some time, and nobody else is offered it. Asking again
returns the same case, until it is labelled, the lease expires, or the request says ``"skip": true``. A request without
``client_id`` is an annotator of its own. Leases are in a file, so they outlive the server.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.scoring import ScoreFolder, case_p_values, surprise
from lib.served import ServedBundle
from monai_diffscore.data.files import whole_file

logger = logging.getLogger(__name__)

_TIE = 0.1


class Leases:
    """Who has which case until when.

    Args:
        path: of the JSON file.
        seconds: that a lease lasts.
        clock: tells the time in seconds.
    """

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float] = time.time) -> None:
        if seconds <= 0:
            raise ValueError(f"A lease must last longer than nothing, got {seconds} seconds.")
        self.path, self.seconds, self.clock = path, seconds, clock
        self.lock = threading.RLock()

    def held(self) -> dict[str, dict[str, Any]]:
        """Image id to holder (``client``), ``until``, and the clients that passed it over (``skipped``)."""
        if not self.path.is_file():
            return {}
        held = json.loads(self.path.read_text())
        for lease in held.values():
            if lease["until"] <= self.clock():
                lease["client"] = None
        return held

    def holder(self, image: str) -> str | None:
        """Who has an image, if somebody does."""
        return self.held().get(image, {}).get("client")

    def take(self, image: str, client: str) -> float:
        """Leases an image; returns until when."""
        held = self.held()
        skipped = held.get(image, {}).get("skipped", [])
        held[image] = {"client": client, "until": self.clock() + self.seconds, "skipped": skipped}
        self._write(held)
        return held[image]["until"]

    def skip(self, image: str, client: str) -> None:
        """Gives an image back, not to be offered to the same client again."""
        held = self.held()
        skipped = sorted({*held.get(image, {}).get("skipped", []), client})
        held[image] = {"client": None, "until": 0.0, "skipped": skipped}
        self._write(held)

    def _write(self, held: Mapping[str, Any]) -> None:
        with whole_file(self.path) as file:
            file.write(json.dumps(held, indent=4).encode())


class MostUnlike(Strategy):
    """Offers the case most unlike the prior of a bundle that nobody else has; see above.

    Args:
        bundle: whose prior.
        scores: where scores are kept.
        leases: shared by all strategies of a server.
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
                logger.info(f"nothing to offer to {client}: all {len(unlabelled)} unlabelled images are in work")
                return None
            return self._offer(self.choose(free, datastore), client, datastore)

    def _may_have(self, image: str, client: str) -> bool:
        lease = self.leases.held().get(image, {})
        return lease.get("client") in (None, client) and client not in lease.get("skipped", [])

    def _offer(self, image: str, client: str, datastore: Datastore) -> dict[str, Any]:
        until = self.leases.take(image, client)
        shown = self.ranking(datastore).get(image, {})
        shown = {name: value for name, value in shown.items() if name != "thumbnail"}
        logger.info(f"{image} for {client}: {shown}")
        return {"id": image, "client_id": client, "lease_until": int(until), **shown}

    def ranking(self, datastore: Datastore) -> dict[str, dict[str, Any]]:
        """The scores of all images that have one, with ``surprise`` and ``case_p``, the most unusual first."""
        scores = {
            image: score
            for image in sorted(datastore.list_images())
            if (score := self.scores.read(self.bundle, datastore.get_image_uri(image))) is not None
        }
        taken = [image for image, score in scores.items() if "refused" not in score]
        u = surprise([scores[image] for image in taken]) if taken else np.zeros(0)
        p = case_p_values(u)
        for place in np.argsort(-u, kind="stable"):
            image = taken[place]
            scores[image] = {**scores[image], "surprise": float(u[place]), "case_p": float(p[place])}
        return dict(sorted(scores.items(), key=lambda item: -item[1].get("surprise", -np.inf)))

    def choose(self, free: list[str], datastore: Datastore) -> str:
        """The next of the images that nobody has."""
        ranked = self.ranking(datastore)
        scored = [image for image in ranked if image in free and "surprise" in ranked[image]]
        if not scored:
            unscored = [image for image in free if image not in ranked]
            return (unscored or free)[0]
        best = ranked[scored[0]]["surprise"]
        tied = [image for image in scored if ranked[image]["surprise"] >= best - _TIE * max(best, 0.0)]
        known = [ranked[image]["thumbnail"] for image in ranked if image not in free and "thumbnail" in ranked[image]]
        if len(tied) == 1 or not known or not all("thumbnail" in ranked[image] for image in tied):
            return tied[0]
        distances = [np.min([np.linalg.norm(np.subtract(ranked[i]["thumbnail"], k)) for k in known]) for i in tied]
        return tied[int(np.argmax(distances))]
