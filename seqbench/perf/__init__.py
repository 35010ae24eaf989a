"""The regression gate: has a change made training slower, larger or worse? Counters first, then time."""
