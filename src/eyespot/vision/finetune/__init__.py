"""A model for one's own classes, trained on a folder of images: dataset, features, head, layers, model."""
