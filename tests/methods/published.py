"""Every published layout in closed form, and which of them the registry can run."""

import dataclasses

import torch
from closed_form import (
    abmil_shapes,
    fill,
    gabmil_shapes,
    hmil_shapes,
    linear_shapes,
    mhim_shapes,
    pool_shapes,
)

from napari_mil import methods
from napari_mil.labeltree import LabelTree

D = 40
HIDDEN = 64
BRACS = LabelTree.from_paths(["B/N", "B/PB", "B/UDH", "A/FEA", "A/ADH", "M/DCIS", "M/IC"])


@dataclasses.dataclass(frozen=True)
class Published:
    """A method's name, its weights as published, the options to load them with, and what it needs of MHIM."""

    method: str
    weights: dict
    options: dict = dataclasses.field(default_factory=dict)
    encoder: str = ""

    @property
    def here(self):
        """Whether the registry holds the method, and MHIM the encoder."""
        if self.method not in methods.names():
            return False
        known = {f.name: f.metadata["choices"] for f in dataclasses.fields(methods.get(self.method).Config)}
        return not self.encoder or self.encoder in known["encoder"]


def critical_shapes(stem, c, hidden, *, values=True):
    """DSMIL's second stream."""
    return {
        **linear_shapes(f"{stem}q.0", 128, hidden),
        **linear_shapes(f"{stem}q.2", 128, 128),
        **(linear_shapes(f"{stem}v.1", hidden, hidden) if values else {}),
        f"{stem}fcc.weight": (c, c, hidden),
        f"{stem}fcc.bias": (c,),
    }


def attention_shapes(stem, hidden, heads):
    """Two layers of Nyström attention with their norms, and what stands around them."""
    shapes = {f"{stem}cls_token": (1, 1, hidden), **norm_shapes(f"{stem}norm", hidden)}
    inner = heads * hidden // 8
    for layer in (1, 2):
        at = f"{stem}layer{layer}."
        shapes |= {
            **norm_shapes(f"{at}norm", hidden),
            f"{at}attn.to_qkv.weight": (3 * inner, hidden),
            **linear_shapes(f"{at}attn.to_out.0", hidden, inner),
            f"{at}attn.res_conv.weight": (heads, 1, 33, 1),
        }
    return shapes


def position_shapes(stem, hidden):
    """Three depth-wise convolutions."""
    shapes = {}
    for name, side in (("proj", 7), ("proj1", 5), ("proj2", 3)):
        shapes |= {f"{stem}{name}.weight": (hidden, 1, side, side), f"{stem}{name}.bias": (hidden,)}
    return shapes


def norm_shapes(key, width):
    """weight and bias of a LayerNorm."""
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def mhim(phase=0, *, encoder="attn", k=5, c=2, heads=8):
    """Weights of version 2 with any encoder."""
    shapes = mhim_shapes(D, c, k, gated=encoder == "gated", hidden=HIDDEN)
    if encoder in ("selfattn", "dsmil"):
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("online_encoder.")}
    if encoder == "selfattn":
        shapes |= attention_shapes("online_encoder.", HIDDEN, heads)
        shapes |= position_shapes("online_encoder.pos_embedding.", HIDDEN)
    if encoder == "dsmil":
        shapes |= linear_shapes("online_encoder.i_classifier.0", c, HIDDEN)
        shapes |= critical_shapes("online_encoder.b_classifier.", c, HIDDEN)
    if k and heads != 8:
        shapes["merge.attn.to_q.weight"] = (heads * HIDDEN // 8, HIDDEN)
        shapes["merge.attn.to_kv.weight"] = (2 * heads * HIDDEN // 8, HIDDEN)
        shapes["merge.attn.to_out.0.weight"] = (HIDDEN, heads * HIDDEN // 8)
    return fill(shapes, phase)


def v1(weights):
    """Version 2's keys in version 1's names."""
    return {k.replace("feature.", "patch_to_emb."): v for k, v in weights.items()}


def dsmil_shapes(c=2):
    """Keys of the stand-alone DSMIL."""
    return {
        **linear_shapes("feature.0", HIDDEN, D),
        **linear_shapes("i_classifier", c, HIDDEN),
        **critical_shapes("b_classifier.", c, HIDDEN),
    }


def authors_dsmil_shapes(c=1, *, values=False):
    """Keys of DSMIL as its authors publish it; without values of their own, tiles stand for themselves."""
    return {
        **linear_shapes("i_classifier.fc.0", c, D),
        **critical_shapes("b_classifier.", c, D, values=values),
    }


def transmil_shapes(c=2, heads=8, first="feature.0", last="classifier"):
    """Keys of the stand-alone TransMIL."""
    return {
        **linear_shapes(first, HIDDEN, D),
        **linear_shapes(last, c, HIDDEN),
        **attention_shapes("", HIDDEN, heads),
        **position_shapes("pos_layer.", HIDDEN),
    }


def clam_shapes(c=2, *, branches=False, at=3):
    """Keys of CLAM; its attention stands at index 2 where there is no dropout."""
    shapes = {
        **linear_shapes("attention_net.0", HIDDEN, D),
        **linear_shapes(f"attention_net.{at}.attention_a.0", 256, HIDDEN),
        **linear_shapes(f"attention_net.{at}.attention_b.0", 256, HIDDEN),
        **linear_shapes(f"attention_net.{at}.attention_c", c if branches else 1, 256),
    }
    for k in range(c):
        shapes |= linear_shapes(f"instance_classifiers.{k}", 2, HIDDEN)
        shapes |= linear_shapes(f"classifiers.{k}", 1, HIDDEN) if branches else {}
    return shapes if branches else {**shapes, **linear_shapes("classifiers", c, HIDDEN)}


def micromil_shapes(c=2, clusters=4, layers=2, hidden=16):
    """Keys of MicroMIL beside its backbone."""
    shapes = {
        **linear_shapes("image_feature", D, D),
        "dec.cluster_centers": (clusters, D),
        **linear_shapes("attn", 1, D),
        **linear_shapes("classify", c, hidden),
    }
    for layer in range(layers):
        shapes |= {
            f"layers.{layer}.fc.weight": (hidden, hidden if layer else D),
            f"layers.{layer}.attn_l": (1, 1, hidden),
            f"layers.{layer}.attn_r": (1, 1, hidden),
            f"layers.{layer}.bias": (hidden,),
        }
    return shapes


def resnet(blocks, growth):
    """A ResNet of torchvision's with its classifier; `growth` 4: bottlenecks."""
    sides = [3, 3] if growth == 1 else [1, 3, 1]
    shapes, width = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512 * growth), "fc.bias": (1000,)}, 64
    norms = {"bn1": 64}
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        for block in range(count):
            stem, start = f"layer{stage + 1}.{block}.", width
            for n, side in enumerate(sides, 1):
                out = inner * growth if n == len(sides) else inner
                shapes[f"{stem}conv{n}.weight"] = (out, width, side, side)
                norms[f"{stem}bn{n}"] = width = out
            if block == 0 and (stage or growth > 1):
                shapes[f"{stem}downsample.0.weight"] = (width, start, 1, 1)
                norms[f"{stem}downsample.1"] = width
    for key, wide in norms.items():
        shapes |= {f"{key}.{part}": (wide,) for part in ("weight", "bias", "running_mean", "running_var")}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    return state | {f"{key}.num_batches_tracked": torch.tensor(1) for key in norms}


def _mhim_layouts():
    for encoder in ("attn", "gated", "selfattn", "dsmil"):
        yield f"mhim {encoder}", Published("mhim", mhim(encoder=encoder, k=3, c=3), {}, encoder)
        yield f"mhim {encoder} pure", Published("mhim", mhim(encoder=encoder, k=0), {}, encoder)
        yield f"mhim {encoder} v1", Published("mhim", v1(mhim(encoder=encoder, k=0)), {}, encoder)


LAYOUTS = {
    "mean": Published("mean", fill(pool_shapes(D))),
    "max": Published("max", fill(pool_shapes(D, c=3)), {"method": "max"}),
    "abmil": Published("abmil", fill(abmil_shapes(D, c=4))),
    "gabmil": Published("gabmil", fill(gabmil_shapes(D))),
    "dsmil": Published("dsmil", fill(dsmil_shapes(3))),
    "dsmil by its authors, one logit": Published("dsmil", fill(authors_dsmil_shapes())),
    "dsmil by its authors, values": Published("dsmil", fill(authors_dsmil_shapes(3, values=True))),
    "transmil": Published("transmil", fill(transmil_shapes(3))),
    "transmil of two heads": Published("transmil", fill(transmil_shapes(heads=2))),
    "transmil by its authors": Published("transmil", fill(transmil_shapes(3, first="_fc1.0", last="_fc2"))),
    "clam_sb": Published("clam_sb", fill(clam_shapes(3))),
    "clam_sb without dropout": Published("clam_sb", fill(clam_shapes(at=2))),
    "clam_mb": Published("clam_mb", fill(clam_shapes(3, branches=True))),
    "clam_mb without dropout": Published("clam_mb", fill(clam_shapes(branches=True, at=2))),
    **dict(_mhim_layouts()),
    "mhim selfattn of two heads": Published("mhim", mhim(encoder="selfattn", heads=2), {}, "selfattn"),
    "hmil": Published("hmil", fill(hmil_shapes(d=D)), {"tree": BRACS}),
    "micromil": Published("micromil", fill(micromil_shapes())),
}
HERE = [name for name, published in LAYOUTS.items() if published.here]
