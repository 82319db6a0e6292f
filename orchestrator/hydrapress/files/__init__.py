"""Reading the tensors of exported files, defensively."""
