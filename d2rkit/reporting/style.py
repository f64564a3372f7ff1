"""The colours of every picture: Okabe & Ito's hues, darkened until each stands out from white by 3:1 and still differs
from the others with any colour vision, and greys. Wherever one means something, a marker, dash or label says the same a
second time."""

BLACK, INK, GREY, GRID, PAPER = "#000000", "#222222", "#6B6B6B", "#DDDDDD", "#FFFFFF"
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#005F9A", "#BF8600", "#008F68", "#B03A00", "#2E9BD6", "#C66BA2"
OWN_COLOURS = ("#882255", "#999933", "#332288")  # of Tol's muted scheme, for registered methods
