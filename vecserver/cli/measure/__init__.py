"""How fast a pool steps, beside what bounds it and what it replaces: everything measured in one run, in turns.

A machine's speed drifts within minutes, so a rate alone says little. What counts is the ratio of two rates of the same
round, and of such ratios the median.
"""
