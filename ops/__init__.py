"""Tensor operations of StyleNAT. Nothing here knows about models."""
