"""Raw networks ``F(x, c_noise, **condition)``. They do not depend on SDEs or samplers."""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "conditioning": "ConditionEncoder",
        "counts": "CountsAutoencoder",
        "dit": "ScoreDiT",
        "gene_mlp": "GeneResidualMLP",
        "hierarchical_unet": "HierarchicalUNet",
        "mlp": "ScoreMLP",
        "pathway_gnn": "PathwayGNN",
        "single_cell": "SingleCellNet",
        "unet": "ScoreUNet scale_unets",
    },
)
