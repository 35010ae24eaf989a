"""What the lesson tells, section by section: numbers from the records, ready to stand in a sentence."""
