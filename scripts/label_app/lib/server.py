"""The web application: MONAI Label's, with problems as 4xx with one line, and requests in threads.

``--uvicorn_app lib.server:app`` serves it. MONAI Label answers a wrong name or unusable data with 500 and a stack
trace, and its handlers, which are coroutines, block all other requests while they compute. Here

- unknown names are 404, unusable values and data 422, both with ``{"detail": one line}``;
- each request runs in a thread, so that ``/info/`` and ``/train/`` answer while a volume is denoised.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.app import app
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, scoring, train, wsi_infer
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from lib.problems import Unknown
from lib.results import as_dicom_seg
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

# without it MONAI Label imports lib a second time for the app, with other classes of exceptions
os.environ.setdefault("MONAI_LABEL_RELOAD_APP_LIB", "false")


def answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    """A handler of exceptions that answers with a line."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        message = " ".join(str(getattr(error, "msg", None) or error).split())
        logger.warning(f"{request.method} {request.url.path}: {status} {message}")
        return JSONResponse({"detail": message}, status_code=status)

    return handle


def in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """A function for a coroutine that computes. FastAPI runs functions in threads."""

    def call(**arguments: Any) -> Any:
        if endpoint.__module__ in (infer.__name__, wsi_infer.__name__):
            check_request(arguments)
        elif endpoint.__module__ == train.__name__ and "model" in arguments:
            app_instance().check_training(arguments["model"], arguments["params"])
        elif endpoint.__module__ == scoring.__name__ and "method" in arguments:
            app_instance().check_scoring(arguments["method"])
        return asyncio.run(endpoint(**arguments))

    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    call.__name__, call.__doc__ = endpoint.__name__, endpoint.__doc__
    return call


def check_request(arguments: dict[str, Any]) -> None:
    """Refuses requests that MONAI Label would answer with 500, before any computation.

    It names a DICOM segment that the client does not name.

    Raises:
        DataError: without an image, and for a DICOM SEG of files that are no DICOM.
    """
    if not any(arguments.get(name) for name in ("image", "file", "session_id")):
        raise DataError(
            "the request", expected="an image: its id as ?image=, or a file", got="none", remedy="See GET /datastore/."
        )  # fmt: skip
    name = "params" if "params" in arguments else "wsi"
    try:
        params = arguments[name] if not isinstance(arguments[name], str) else json.loads(arguments[name] or "{}")
    except json.JSONDecodeError as error:
        raise DataError(
            "the request", key=name, expected="JSON", got=arguments[name][:80], remedy=str(error)
        ) from error
    if arguments["output"] != "dicom_seg":
        return
    if not isinstance(app_instance().datastore(), DICOMWebDatastore):
        raise DataError(
            "the request", key="output", expected="image, json or all for a folder of files", got="dicom_seg",
            remedy="Start the server on a DICOMweb service for DICOM SEG.",
        )  # fmt: skip
    params.setdefault("label_info", [{"name": "anomaly", "model_name": arguments["model"]}])
    arguments["params"] = json.dumps({**params, "result_extension": ".nii.gz"})


def threaded(route: Any) -> Any:
    """The route with its endpoint in a thread."""
    if not isinstance(route, APIRoute) or not inspect.iscoroutinefunction(route.endpoint):
        return route
    return APIRoute(
        route.path,
        in_thread(route.endpoint),
        methods=route.methods,
        summary=route.summary,
        tags=route.tags,
        responses=route.responses,
        include_in_schema=route.include_in_schema,
        deprecated=route.deprecated,
        response_model=None,
    )


for endpoints in (activelearning, batch_infer, datastore, infer, scoring, train, wsi_infer):
    endpoints.router.routes[:] = [threaded(route) for route in endpoints.router.routes]
infer.nifti_to_dicom_seg = as_dicom_seg
for kind, status in (
    (Unknown, 404),
    (ImageNotFoundException, 404),
    (LabelNotFoundException, 404),
    (MONAILabelException, 422),
    (ValueError, 422),
):
    app.add_exception_handler(kind, answer(status))
