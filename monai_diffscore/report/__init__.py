"""Reports: a page that opens anywhere, and the panels that fill it.

``page`` and ``charts`` are the skeleton and know nothing of the data; ``sources`` reads a run; ``images`` is the
panel of generated images; ``card`` puts it on a model card. Another kind of data brings a module like ``images``.
"""

from __future__ import annotations

from monai_diffscore.report.card import card_text, write_card
from monai_diffscore.report.images import (
    ImageReport,
    headline,
    image_page,
    log_report,
    report_images,
    write_report,
)
from monai_diffscore.report.page import Cell, Page, Section, render
from monai_diffscore.report.sources import Material, find_run, gather

__all__ = [
    "Cell",
    "ImageReport",
    "Material",
    "Page",
    "Section",
    "card_text",
    "find_run",
    "gather",
    "headline",
    "image_page",
    "log_report",
    "render",
    "report_images",
    "write_card",
    "write_report",
]
