from monai_diffscore.data.dicom.reader import *
from monai_diffscore.data.dicom.report import *
from monai_diffscore.data.dicom.rules import *
from monai_diffscore.data.dicom.segmentation import *
from monai_diffscore.data.dicom.series import *
from monai_diffscore.data.dicom.writer import *
