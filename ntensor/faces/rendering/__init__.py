"""From vertices, skin, pose and light to pictures."""
