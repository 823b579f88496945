"""Doppler: language models in the browser, with no server and no compiler.

Read the modules in the order that data takes: source, manifest, shards, weights,
config, plan, kernels, engine, sampler, tokenizer, api.
"""

__version__ = "0.1.0"
