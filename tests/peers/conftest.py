"""What pytest must not import in its search for doctests: what needs the peers' own environment."""

collect_ignore = ["flax_loop.py"]
