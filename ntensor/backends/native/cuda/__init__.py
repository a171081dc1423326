"""The compiled module `ntensor._cuda`, which serves CUDA GPUs."""
