"""What several experiments share: networks, data, seeds, checkpoints."""
