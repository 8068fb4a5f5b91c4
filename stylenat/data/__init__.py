"""Images to train on: data sets in many formats, and batches of them."""

from stylenat.data.classes import class_labels
from stylenat.data.faces import draw_face
from stylenat.data.images import to_rgb
from stylenat.data.loader import Batch, labelled_batches, read_batches, training_batches
from stylenat.data.opening import open_images
from stylenat.data.pool import Interrupted
from stylenat.data.source import ImageSource

__all__ = [
    "Batch",
    "ImageSource",
    "Interrupted",
    "class_labels",
    "draw_face",
    "labelled_batches",
    "open_images",
    "read_batches",
    "to_rgb",
    "training_batches",
]
