"""Ready-made weights: a trained network made small enough to ship, and what that costs.

`robust.safetensors`, where it is, is read by the commands that no run is named to; `robust.json`
beside it says how it was trained, what its licence is and what was measured.
"""
