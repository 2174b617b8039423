"""What to look at next, and why: places of slides in the order in which a person's word would tell most.

`shortlist` looks at one slide and keeps the few places that may be worth a question; `queue` puts those of
all slides in order, each with its reason. Everything is numpy over stored answers and features: no model is
asked, and what is in memory at once is one slide and the shortlists. Shape letters: N tiles of a slide, M
places, D numbers of a feature.
"""

from napari_mil.review.order import RANDOM_SHARE, Item, queue, thinned
from napari_mil.review.places import CRITERIA, Places
from napari_mil.review.signals import Seen, refuse_risk, shortlist

__all__ = [
    "CRITERIA",
    "RANDOM_SHARE",
    "Item",
    "Places",
    "Seen",
    "queue",
    "refuse_risk",
    "shortlist",
    "thinned",
]
