"""Tensor operations of StyleNAT. Nothing here knows of a model."""
