"""The demo app: a Hugging Face Space, and `python -m space.app` on any machine."""
