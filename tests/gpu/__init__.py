"""What only a machine with a GPU can tell: its tests (``test_*.py``) and measurements (``python -m gpu``)."""
