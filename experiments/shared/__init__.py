"""What the scripts have in common. Nothing here imports torch at the top."""
