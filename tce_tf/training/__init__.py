"""How training runs: the loop, checkpoints and resume, strategies, monitors."""
