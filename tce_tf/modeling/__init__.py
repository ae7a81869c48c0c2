"""What is trained: backbones, heads, memory bank, losses, the TCE model."""
