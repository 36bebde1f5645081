"""Speakers' colours."""

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2", "#999999")
"""Told apart by colour-blind people too: Okabe and Ito's, https://jfly.uni-koeln.de/color/; then again."""
