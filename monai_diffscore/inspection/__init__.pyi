from monai_diffscore.inspection.bundle import *
from monai_diffscore.inspection.files import *
