"""One file per figure: pure functions from data frames to a figure, and to what it shows in words."""
