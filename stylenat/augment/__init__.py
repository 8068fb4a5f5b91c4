"""Augmentations of what D sees: pure functions of images and of random draws from outside."""

from stylenat.augment.diffaugment import AUGMENT_DRAWS, augment, is_cut, shifted

__all__ = ["AUGMENT_DRAWS", "augment", "is_cut", "shifted"]
