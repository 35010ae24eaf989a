"""The fault campaign: what breaks, how often it was tried, and how often a promise was broken.

``make faults`` runs every campaign at full size and prints the table; ``make test`` runs smaller ones.
"""
