"""Benchmarks; each runs as a file or as `python -m experiments.benchmarks.<name>`."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))  # for `import harness`, as when run as a file
