"""Reports: a page that opens anywhere, and the panels that fill it.

``page`` and ``charts`` are the skeleton and know nothing of the data. ``runs`` opens the record of a training.
``images`` is the panel of generated images, which ``sources`` and ``image_files`` read. ``profiles`` is the panel of
cells, samples and rows of a table, which ``profile_sources`` and ``profile_tables`` read, with ``maps``. ``card`` puts
a panel on a model card. ``command`` is the command line.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "card": "card_text write_card",
        "images": "ImageReport headline image_metrics image_page log_report report_images write_report",
        "intake": "RunIntake read_intake",
        "page": "Cell Page Section render",
        "profile_sources": (
            "ProfileFields ProfileMaterial find_profiles gather_profiles gather_run_profiles holds_expression "
            "is_profiles match_profiles only_profiles"
        ),
        "profiles": "ProfileReport profile_headline profile_metrics profile_page report_profiles write_profile_report",
        "runs": "RunRecord find_run run_parser",
        "sources": "Material gather",
    },
)
