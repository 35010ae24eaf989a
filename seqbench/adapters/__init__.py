"""Sweeps for TensorBoard, MLflow or Weights & Biases to show: from records alone, without a network."""
