"""Graph attention in its dense form (Veličković et al. 2018).

Shape letters: K nodes, D feature width. A matrix of edges A (K, K) holds in A[u, v] how often an edge leads
from u to v; every edge counts by itself, so one that stands twice has twice the say. For the few nodes of
MicroMIL the dense form is exact, and faster than lists of edges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu


class GraphAttention(nn.Module):
    """One head: e_uv = LeakyReLU(a_l·x_u + a_r·x_v, 0.2) with x = W h; h'_v = Σ_u α_uv x_u + b."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, width, bias=False)
        self.attn_l = nn.Parameter(torch.empty(1, 1, width))
        self.attn_r = nn.Parameter(torch.empty(1, 1, width))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.fc.weight, self.attn_l, self.attn_r):
            nn.init.xavier_normal_(weight, gain=math.sqrt(2))

    def forward(self, h: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """New states (K, width) and attention (K, K), whose columns sum to 1, of nodes h (K, D).

        edges : (K, K) multiplicities, A[u, v] of the edge u → v; every node needs one that comes in
        """
        x = self.fc(h)
        e = leaky_relu((x @ self.attn_l[0, 0])[:, None] + x @ self.attn_r[0, 0], 0.2)
        attention = torch.softmax(e + edges.to(e.dtype).log(), 0)
        return attention.T @ x + self.bias, attention
