from monai_diffscore.guidance.counts import *
from monai_diffscore.guidance.extrapolation import *
from monai_diffscore.guidance.inpaint import *
from monai_diffscore.guidance.posterior import *
