"""Decoder-only language models from small composable parts."""
