"""Parts that several methods are built from.

The names of the submodules are those of the published checkpoints, so that their keys load without renaming.
"""

from __future__ import annotations

from napari_mil.blocks import hiding
from napari_mil.blocks.attention import AttentionScores, GatedScores, gated
from napari_mil.blocks.basics import (
    ACTIVATIONS,
    Dropout,
    ceil_count,
    draw_gumbel,
    draw_order,
    draw_uniform,
    floor_count,
    kaiming,
    soft_cross_entropy,
    xavier,
)
from napari_mil.blocks.dsmil import CriticalAttention, DSMILPooler, Streams
from napari_mil.blocks.gat import GraphAttention
from napari_mil.blocks.hiding import HidesTiles, Hiding, JudgesTeacher
from napari_mil.blocks.nystrom import NystromAttention, NystromLayer
from napari_mil.blocks.pooling import AttentionPooler, Pooled, Pooler, part, whole
from napari_mil.blocks.ppeg import PPEG
from napari_mil.blocks.recycle import CrossAttention, GlobalRecycle
from napari_mil.blocks.rows import Rows, by_rows, fewer_rows
from napari_mil.blocks.selfattention import SelfAttentionPooler
from napari_mil.blocks.streaming import Head

__all__ = [
    "ACTIVATIONS",
    "PPEG",
    "AttentionPooler",
    "AttentionScores",
    "CriticalAttention",
    "CrossAttention",
    "DSMILPooler",
    "Dropout",
    "GatedScores",
    "GlobalRecycle",
    "GraphAttention",
    "Head",
    "HidesTiles",
    "Hiding",
    "JudgesTeacher",
    "NystromAttention",
    "NystromLayer",
    "Pooled",
    "Pooler",
    "Rows",
    "SelfAttentionPooler",
    "Streams",
    "by_rows",
    "ceil_count",
    "draw_gumbel",
    "draw_order",
    "draw_uniform",
    "fewer_rows",
    "floor_count",
    "gated",
    "hiding",
    "kaiming",
    "part",
    "soft_cross_entropy",
    "whole",
    "xavier",
]
