"""Scripts that train and use the models of `llm`."""
