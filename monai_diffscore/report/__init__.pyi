from monai_diffscore.report.card import *
from monai_diffscore.report.images import *
from monai_diffscore.report.intake import *
from monai_diffscore.report.page import *
from monai_diffscore.report.profile_sources import *
from monai_diffscore.report.profiles import *
from monai_diffscore.report.runs import *
from monai_diffscore.report.sources import *
