"""Reports: a page that opens anywhere, and the panels that fill it.

``page`` and ``charts`` are the skeleton and know nothing of the data; ``sources`` reads a run; ``images`` is the
panel of generated images, ``profiles`` that of cells, samples and rows of a table, with ``profile_sources`` and
``maps``; ``card`` puts a panel on a model card.
"""

from __future__ import annotations

from monai_diffscore.report.card import card_text, write_card
from monai_diffscore.report.images import (
    ImageReport,
    headline,
    image_metrics,
    image_page,
    log_report,
    report_images,
    write_report,
)
from monai_diffscore.report.page import Cell, Page, Section, render
from monai_diffscore.report.profile_sources import (
    ProfileFields,
    ProfileMaterial,
    find_profiles,
    gather_profiles,
    gather_run_profiles,
    is_profiles,
    match_profiles,
)
from monai_diffscore.report.profiles import (
    ProfileReport,
    profile_headline,
    profile_metrics,
    profile_page,
    report_profiles,
    write_profile_report,
)
from monai_diffscore.report.sources import Material, RunRecord, find_run, gather

__all__ = [
    "Cell",
    "ImageReport",
    "Material",
    "Page",
    "ProfileFields",
    "ProfileMaterial",
    "ProfileReport",
    "RunRecord",
    "Section",
    "card_text",
    "find_profiles",
    "find_run",
    "gather",
    "gather_profiles",
    "gather_run_profiles",
    "headline",
    "image_metrics",
    "image_page",
    "is_profiles",
    "log_report",
    "match_profiles",
    "profile_headline",
    "profile_metrics",
    "profile_page",
    "render",
    "report_images",
    "report_profiles",
    "write_card",
    "write_profile_report",
    "write_report",
]
