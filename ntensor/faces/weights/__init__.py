"""Ready-made weights: compresses a trained network for shipping, and measures the cost.

Commands that are given no run read `robust.safetensors`, if it exists. `robust.json` next to it
holds its training, licence and measurements.
"""
