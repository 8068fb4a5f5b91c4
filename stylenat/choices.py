"""The closed lists that configuration, command line and library share, each written once.

It imports nothing heavy, since `stylenat --help` reads it. What belongs to a choice (a torch.dtype,
a metric's row, a file of weights) is in a table beside the code that uses it. A test compares that
table with the list here.
"""

from typing import Literal, get_args

Filter = Literal["bilinear", "lanczos", "box"]  # that scales images of a data set
Crop = Literal["center", "none"]  # what `stylenat prepare` does with images that are not square
Mode = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]  # feature network and its scaling
Space = Literal[  # of features, in which images are compared
    "inception", "dinov2", "dinov2_b", "clip", "vgg", "effnet_lite0"
]
InSpace = Literal["fd", "kd", "pr", "dc", "mind"]  # metrics that any such space has
Dtype = Literal["float32", "bfloat16", "float16"]  # of a generator that makes images
Precision = Literal["float32", "bfloat16"]  # of training, and of what is measured
SeedScheme = Literal["torch", "stylegan"]  # whose latents a seed stands for
Snapshot = Literal["best", "last"]  # of a run folder
AugmentSet = Literal[  # of ADA's transformations
    "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"
]
Augmentation = Literal["none", "diffaugment", "ada"]  # of all images that D sees in training
SheetColumns = Literal["p", "percentile"]  # what the columns of `stylenat augment-sheet` stand for
DirectionMethod = Literal["pca", "sefa", "jacobian", "difference", "fit"]  # of directions of w
ProjectionLoss = Literal["effnet", "pixels", "vgg-lpips"]  # how `stylenat project` compares
LatentSpace = Literal["w", "w+"]  # one w for all blocks of a generator, or one for each

FILTERS: tuple[Filter, ...] = get_args(Filter)
CROPS: tuple[Crop, ...] = get_args(Crop)
MODES: tuple[Mode, ...] = get_args(Mode)
SPACES: tuple[Space, ...] = get_args(Space)
IN_SPACE: tuple[InSpace, ...] = get_args(InSpace)


def metric_name(metric: InSpace, space: Space) -> str:
    """What a metric is called in a space: `fid` and `kid` are the ones of Inception."""
    if space == "inception":
        return {"fd": "fid", "kd": "kid"}.get(metric, metric)
    return f"{metric}_{space}"


METRICS: tuple[str, ...] = (
    *(metric_name(metric, space) for space in SPACES for metric in IN_SPACE),
    "cmmd",
    "is",
    "ppl",
    "ppl_effnet_lite0",
    "swd",
)
METRICS_IN_WORDS = (
    f"fid, kid, pr, dc, mind; fd, kd, pr, dc or mind with _ and one of {', '.join(SPACES[1:])}, "
    f"such as fd_dinov2; {', '.join(METRICS[len(SPACES) * len(IN_SPACE) :])}"
)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SEED_SCHEMES: tuple[SeedScheme, ...] = get_args(SeedScheme)
SNAPSHOTS: tuple[Snapshot, ...] = get_args(Snapshot)
AUGMENT_SETS: tuple[AugmentSet, ...] = get_args(AugmentSet)
SHEET_COLUMNS: tuple[SheetColumns, ...] = get_args(SheetColumns)
DIRECTION_METHODS: tuple[DirectionMethod, ...] = get_args(DirectionMethod)
PROJECTION_LOSSES: tuple[ProjectionLoss, ...] = get_args(ProjectionLoss)
LATENT_SPACES: tuple[LatentSpace, ...] = get_args(LatentSpace)
