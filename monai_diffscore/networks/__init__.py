"""Raw networks F(x, c_noise, **condition): they know neither SDEs nor samplers."""

from monai_diffscore.networks.conditioning import ConditionEncoder
from monai_diffscore.networks.counts import CountsAutoencoder
from monai_diffscore.networks.dit import ScoreDiT
from monai_diffscore.networks.gene_mlp import GeneResidualMLP
from monai_diffscore.networks.hierarchical_unet import HierarchicalUNet
from monai_diffscore.networks.mlp import ScoreMLP
from monai_diffscore.networks.pathway_gnn import PathwayGNN
from monai_diffscore.networks.single_cell import SingleCellNet
from monai_diffscore.networks.unet import ScoreUNet

__all__ = [
    "ConditionEncoder",
    "CountsAutoencoder",
    "GeneResidualMLP",
    "HierarchicalUNet",
    "PathwayGNN",
    "ScoreDiT",
    "ScoreMLP",
    "ScoreUNet",
    "SingleCellNet",
]
