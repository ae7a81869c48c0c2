"""Temporally Coherent Embeddings (Knights et al., ICPR 2020) for TensorFlow and Keras."""

import os
import platform

# Before TensorFlow is imported: its C++ start-up lines (no GPU found, plugins registered twice) are
# no news to a user, and what matters of them comes as a Python exception too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# TensorFlow leaves oneDNN's convolutions off on processors with AVX2 but no AVX-512, where a training
# step takes over twice as long without them (experiments/benchmarks/bench_onednn.py).
if platform.machine().lower() in ("x86_64", "amd64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
