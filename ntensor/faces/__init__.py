"""The paper's face model: data, rendering, networks, losses, training, editing, evaluation."""
