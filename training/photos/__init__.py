"""Real photographs as training data: reading, cutting out, sentences, samples."""
