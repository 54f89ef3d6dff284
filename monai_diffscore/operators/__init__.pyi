from monai_diffscore.operators.genes import *
from monai_diffscore.operators.k_space import *
from monai_diffscore.operators.linear_map import *
from monai_diffscore.operators.mask import *
from monai_diffscore.operators.radon import *
from monai_diffscore.operators.resolution import *
