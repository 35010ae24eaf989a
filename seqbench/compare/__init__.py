"""Two sweeps against each other, from their records alone: what became better or worse, and what differs."""
