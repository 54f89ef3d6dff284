"""The use of synthetic images with labels: segmenters trained with them and without them, tested on real subjects.

``label_pairs`` reads images with their label maps. ``segmenter`` trains and tests one network. ``study`` trains one
for each set of data and seed. ``results`` writes the tables and the picture.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "label_pairs": "class_values labelled_cases load_pairs",
        "results": "describe_study write_study",
        "segmenter": "Segmenter",
        "study": "ARMS Arm Study run_study",
    },
)
