"""How close generated images are to a data set: FID, KID, precision and recall, SWD.

`Evaluator(["fid"], open_images("ffhq256.zip"))(generator)` gives scores and their protocol.
"""

from stylenat.metrics.collect import Stopped
from stylenat.metrics.evaluate import Evaluator
from stylenat.metrics.scores import Scores
from stylenat.metrics.scoring import Protocol, protocol_of, score, score_classes
from stylenat.weights import find_weights

__all__ = [
    "Evaluator",
    "Protocol",
    "Scores",
    "Stopped",
    "find_weights",
    "protocol_of",
    "score",
    "score_classes",
]
