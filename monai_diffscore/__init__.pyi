from monai_diffscore.anomaly import *
from monai_diffscore.denoiser import *
from monai_diffscore.detail_tiles import *
from monai_diffscore.guidance import *
from monai_diffscore.joint_scales import *
from monai_diffscore.latent import *
from monai_diffscore.likelihood import *
from monai_diffscore.losses import *
from monai_diffscore.multiscale import *
from monai_diffscore.networks import *
from monai_diffscore.operators import *
from monai_diffscore.pyramid import *
from monai_diffscore.sampling import *
from monai_diffscore.scales import *
from monai_diffscore.sde import *
from monai_diffscore.tiling import *

__version__: str
