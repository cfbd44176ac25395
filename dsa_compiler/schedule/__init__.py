"""The layer scheduler: which layers run together on how many images, where tensors lie, in which order."""
