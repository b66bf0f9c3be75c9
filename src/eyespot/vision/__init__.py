"""Image recognition on the CPU: no event loop, no HTTP, no storage.

Works alone: `Classifier.open("weights/manifest.toml").classify(data)`.
"""
