"""Cases: sessions of subjects with images and masks by role, read from folders as people have them."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "case": "Case Cases",
        "content": "content_hash equal_files is_label_map",
        "detection": "LAYOUTS",
        "leakage": "Leak leaks",
        "listing": "list_cases",
        "page": "describe_cases",
        "table": "read_table_of_cases write_table_of_cases",
    },
)
