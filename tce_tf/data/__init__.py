"""What turns video into training batches: layouts, decoding, shards, sampling, augmentation."""
