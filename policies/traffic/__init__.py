"""The traffic log on disk and in stores: the formats of its files, encryption, erasure, and how all of it is read."""
