from monai_diffscore.segmentation.label_pairs import *
from monai_diffscore.segmentation.results import *
from monai_diffscore.segmentation.segmenter import *
from monai_diffscore.segmentation.study import *
