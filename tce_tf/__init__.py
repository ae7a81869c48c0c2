"""Temporally Coherent Embeddings (Knights et al., ICPR 2020) for TensorFlow and Keras."""

import os

# Before TensorFlow is imported: its C++ start-up lines (no GPU found, plugins registered twice) are
# no news to a user, and what matters of them comes as a Python exception too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
