"""Tasks: data plus question, one file per family; importing them does not import torch."""
