"""What a batch is trained on: one file a way of training."""
