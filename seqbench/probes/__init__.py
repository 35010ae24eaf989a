"""Probes: measurements on a network, one file each."""
