"""KServe's first protocol, which it has from TensorFlow Serving."""
