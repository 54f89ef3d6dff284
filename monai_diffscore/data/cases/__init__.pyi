from monai_diffscore.data.cases.case import *
from monai_diffscore.data.cases.content import *
from monai_diffscore.data.cases.detection import *
from monai_diffscore.data.cases.leakage import *
from monai_diffscore.data.cases.listing import *
from monai_diffscore.data.cases.page import *
from monai_diffscore.data.cases.table import *
