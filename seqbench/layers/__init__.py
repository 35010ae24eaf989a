"""The torch modules that models build: encoders and the scans below them."""
