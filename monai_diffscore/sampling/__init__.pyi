from monai_diffscore.sampling.deterministic import *
from monai_diffscore.sampling.grids import *
from monai_diffscore.sampling.steps import *
from monai_diffscore.sampling.stochastic import *
