"""The harness proves itself: exact and published results, reproduced in minutes."""
