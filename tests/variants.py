"""The ways to run a method that tests of every method try."""

#: more ways to run a method than its defaults; methods not named here run with those alone
VARIANTS = {
    "mhim": [
        {},
        {"encoder": "gated"},
        {"encoder": "selfattn", "heads": 2},
        {"compat": "official"},
        {"pure": True},
        {"hidden_ratio_random": 0.5, "score": "attention", "recycle_tokens": 0},
        {"version": 1, "random_mask_ratio": 0.5, "low_mask_ratio": 0.2},
        {"encoder": "dsmil"},
        {"encoder": "dsmil", "version": 1, "random_mask_ratio": 0.3},
        {"encoder": "selfattn", "version": 1, "compat": "official", "low_mask_ratio": 0.5},
    ],
    "clam_sb": [{}, {"subtyping": True}],
    "clam_mb": [{}, {"subtyping": True}],
    "hmil": [{}, {"compat": "official"}, {"compat": "paper"}],
    # one draw or many depend on which image met which noise, so on the order; test_micromil.py has those
    "micromil": [{}, {"compat": "official", "select": "argmax"}, {"compat": "paper"}, {"dec_weight": 0.1}],
}
