"""Weights and bags in closed form, so that golden values need no file: value = amp · (2 · hash − 1)."""

import math

import numpy as np
import torch


def hash01(i, j):
    """frac(sin((i + 1) · 12.9898 + (j + 1) · 78.233) · 43758.5453) in float64."""
    v = np.sin((np.asarray(i, np.float64) + 1) * 12.9898 + (j + 1) * 78.233) * 43758.5453
    return v - np.floor(v)


def bag(n, d, phase):
    """(n, d) float32 features in [−1, 1]."""
    return torch.from_numpy((2 * hash01(np.arange(n * d), 1000 + phase) - 1).astype(np.float32).reshape(n, d))


def fill(shapes, phase=0):
    """A state dict of the given {key: shape}; keys in code-point order count from 0."""
    filled = {}
    for j, key in enumerate(sorted(shapes)):
        shape = tuple(shapes[key])
        if len(shape) == 1:
            amp = 0.05
        elif len(shape) == 3 and shape[0] == 1:
            amp = 0.5
        else:
            amp = math.sqrt(3 / math.prod(shape[1:]))
        values = amp * (2 * hash01(np.arange(math.prod(shape)), j + 100 * phase) - 1)
        values += key.endswith("norm.weight")
        filled[key] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return filled


def mhim_shapes(d=1024, c=2, k=5, *, gated=False, dsmil=False, selfattn=False, hidden=512):
    """Keys of a published MHIM v2 network; k = 0: pure."""
    shapes = {
        "feature.0.weight": (hidden, d),
        "feature.0.bias": (hidden,),
        "predictor.weight": (c, hidden),
        "predictor.bias": (c,),
    }
    if k:
        shapes |= {
            "merge.global_q_mm": (1, k, hidden),
            "merge.norm.weight": (hidden,),
            "merge.norm.bias": (hidden,),
            "merge.attn.to_kv.weight": (2 * hidden, hidden),
            "merge.attn.to_q.weight": (hidden, hidden),
            "merge.attn.to_out.0.weight": (hidden, hidden),
            "merge.attn.to_out.0.bias": (hidden,),
        }
    if dsmil:
        return {
            **shapes,
            **linear_shapes("online_encoder.i_classifier.0", c, hidden),
            **_critical_shapes("online_encoder.b_classifier", c, hidden),
        }
    if selfattn:
        layers = layer_shapes(hidden) | ppeg_shapes("pos_embedding", hidden)
        return shapes | {f"online_encoder.{key}": shape for key, shape in layers.items()}
    if gated:
        return shapes | {
            "online_encoder.attention.attention_a.0.weight": (128, hidden),
            "online_encoder.attention.attention_b.0.weight": (128, hidden),
            "online_encoder.attention.attention_c.weight": (1, 128),
        }
    return shapes | {
        "online_encoder.attention.attention.0.weight": (128, hidden),
        "online_encoder.attention.attention.2.weight": (1, 128),
    }


def layer_shapes(hidden=512, heads=8):
    """Keys of two layers of Nyström attention, the class token before and the norm behind them."""
    inner = heads * (hidden // 8)
    shapes = {"cls_token": (1, 1, hidden), "norm.weight": (hidden,), "norm.bias": (hidden,)}
    for layer in ("layer1", "layer2"):
        shapes |= {
            f"{layer}.norm.weight": (hidden,),
            f"{layer}.norm.bias": (hidden,),
            f"{layer}.attn.to_qkv.weight": (3 * inner, hidden),
            f"{layer}.attn.to_out.0.weight": (hidden, inner),
            f"{layer}.attn.to_out.0.bias": (hidden,),
            f"{layer}.attn.res_conv.weight": (heads, 1, 33, 1),
        }
    return shapes


def ppeg_shapes(key, hidden=512):
    """Keys of the positional block."""
    shapes = {}
    for name, taps in (("proj", 7), ("proj1", 5), ("proj2", 3)):
        shapes |= {f"{key}.{name}.weight": (hidden, 1, taps, taps), f"{key}.{name}.bias": (hidden,)}
    return shapes


def transmil_shapes(d=1024, c=2, hidden=512):
    """Keys of the stand-alone TransMIL."""
    return {
        **linear_shapes("feature.0", hidden, d),
        **layer_shapes(hidden),
        **ppeg_shapes("pos_layer", hidden),
        **linear_shapes("classifier", c, hidden),
    }


def hmil_shapes(kc=3, kf=7, d=1024):
    """Keys of a published HMIL model."""
    return {
        "feature_extractor.0.weight": (256, d),
        "feature_extractor.0.bias": (256,),
        "feature_extractor.2.weight": (1024, 256),
        "feature_extractor.2.bias": (1024,),
        "feature_reducer.0.weight": (256, 1024),
        "feature_reducer.0.bias": (256,),
        "coarse_attention.0.attention_a.0.weight": (256, 1024),
        "coarse_attention.0.attention_a.0.bias": (256,),
        "coarse_attention.0.attention_b.0.weight": (256, 1024),
        "coarse_attention.0.attention_b.0.bias": (256,),
        "coarse_attention.0.attention_c.weight": (kc, 256),
        "coarse_attention.0.attention_c.bias": (kc,),
        "fine_attention.0.attention_a.0.weight": (64, 256),
        "fine_attention.0.attention_a.0.bias": (64,),
        "fine_attention.0.attention_b.0.weight": (64, 256),
        "fine_attention.0.attention_b.0.bias": (64,),
        "fine_attention.0.attention_c.weight": (kf, 64),
        "fine_attention.0.attention_c.bias": (kf,),
        "coarse_classifier.weight": (1, 1024),
        "coarse_classifier.bias": (1,),
        "fine_classifier.weight": (1, 256),
        "fine_classifier.bias": (1,),
    }


def linear_shapes(key, out, width):
    """weight and bias of a Linear."""
    return {f"{key}.weight": (out, width), f"{key}.bias": (out,)}


def _critical_shapes(stem, c, hidden):
    return {
        **linear_shapes(f"{stem}.q.0", 128, hidden),
        **linear_shapes(f"{stem}.q.2", 128, 128),
        **linear_shapes(f"{stem}.v.1", hidden, hidden),
        f"{stem}.fcc.weight": (c, c, hidden),
        f"{stem}.fcc.bias": (c,),
    }


def dsmil_shapes(d=1024, c=2, hidden=512):
    """Keys of the stand-alone DSMIL."""
    return {
        **linear_shapes("feature.0", hidden, d),
        **linear_shapes("i_classifier", c, hidden),
        **_critical_shapes("b_classifier", c, hidden),
    }


def clam_shapes(d=1024, c=2, hidden=512, *, branches=False, at=3):
    """Keys of CLAM without the buffer of its loss; `at` is the place of the attention: 2 without dropout."""
    shapes = {
        **linear_shapes("attention_net.0", hidden, d),
        **linear_shapes(f"attention_net.{at}.attention_a.0", 256, hidden),
        **linear_shapes(f"attention_net.{at}.attention_b.0", 256, hidden),
        **linear_shapes(f"attention_net.{at}.attention_c", c if branches else 1, 256),
    }
    for k in range(c):
        shapes |= linear_shapes(f"instance_classifiers.{k}", 2, hidden)
        shapes |= linear_shapes(f"classifiers.{k}", 1, hidden) if branches else {}
    return shapes if branches else {**shapes, **linear_shapes("classifiers", c, hidden)}


def abmil_shapes(d=1024, c=2, hidden=512):
    """Keys of the stand-alone AB-MIL."""
    return {
        **linear_shapes("feature.0", hidden, d),
        **linear_shapes("attention.0", 128, hidden),
        **linear_shapes("attention.2", 1, 128),
        **linear_shapes("classifier", c, hidden),
    }


def gabmil_shapes(d=1024, c=2, hidden=512):
    """Keys of the stand-alone gated AB-MIL."""
    return {
        **linear_shapes("feature.0", hidden, d),
        **linear_shapes("attention_a.0", 384, hidden),
        **linear_shapes("attention_b.0", 384, hidden),
        **linear_shapes("attention_c", 1, 384),
        **linear_shapes("classifier.0", c, hidden),
    }


def pool_shapes(d=1024, c=2, hidden=512):
    """Keys of mean and max pooling."""
    return {**linear_shapes("head.0", hidden, d), **linear_shapes("head.3", c, hidden)}


def micromil_shapes(d=512, clusters=4, c=2, hidden=128):
    """Keys of a published MicroMIL beside its backbone."""
    shapes = {
        **linear_shapes("image_feature", d, d),
        "dec.cluster_centers": (clusters, d),
        **linear_shapes("attn", 1, d),
        **linear_shapes("classify", c, hidden),
    }
    for layer, width in enumerate((d, hidden)):
        shapes |= {
            f"layers.{layer}.fc.weight": (hidden, width),
            f"layers.{layer}.attn_l": (1, 1, hidden),
            f"layers.{layer}.attn_r": (1, 1, hidden),
            f"layers.{layer}.bias": (hidden,),
        }
    return shapes
