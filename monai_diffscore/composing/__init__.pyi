from monai_diffscore.composing.bundle import *
from monai_diffscore.composing.composition import *
from monai_diffscore.composing.merging import *
