"""Model configurations, one file per family; importing them does not import torch."""
