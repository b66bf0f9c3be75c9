"""What is in an image: pure CPU; no event loop, no HTTP, no storage.

Usable alone: `Classifier.open("weights/manifest.toml").classify(data)`.
"""
